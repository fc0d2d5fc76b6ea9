"""Scans to preprocessed cases: ``python preprocess.py --data D --results R --task 04 --dim 3``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from joblib import cpu_count
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cases.case import list_cases
from cases.plan import PLAN_FILE, Plan, PlanError
from cases.splits import split
from data_preprocessing.layouts import read_dataset
from data_preprocessing.layouts.dataset import Dataset, DatasetError, Scan
from data_preprocessing.planning.fingerprint import Facts, examine, make_plan
from data_preprocessing.planning.tasks import TASKS, Task, task_code, task_folder
from data_preprocessing.preprocessor import Outcome, run
from data_preprocessing.recipes.medicalnet import INPUT_SIZE, as_published, looks_depth_last
from pretraining.genesis.cubes import CubeSettings, generate_cubes
from pretraining.semantic.pattern_files import find_patterns, index_path, write_published
from pretraining.semantic.pattern_report import instances, measure
from pretraining.semantic.patterns import PatternSettings
from pretraining.semantic.pictures import draw_patterns
from settings import PreprocessSettings, parse, run_command

T = TypeVar("T")
COMPARED = 10  # instances of a class whose likeness is measured
SHOWN = 10  # instances of a class in the picture


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where something could not be done."""
    settings = parse(PreprocessSettings, argv, __doc__ or "")
    try:
        command = {"cubes": make_cubes, "patterns": find_places}.get(settings.exec_mode, preprocess)
        return command(settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def make_cubes(settings: PreprocessSettings) -> int:
    """Cube files of a folder of scans, or of a task's training scans; returns 1 if a scan gave none."""
    cubes = CubeSettings(
        cube_size=settings.cube_size,  # type: ignore[arg-type]
        scale=settings.scale,
        tissue_filter=settings.tissue_filter,
        tissue_max=settings.tissue_max,
        cube_folds=settings.cube_folds,
    )
    cubes = cubes.for_mri() if settings.modality == "MRI" else cubes
    folder = settings.dataset or task_folder(settings.data, str(settings.task), settings.name)
    source = folder / "imagesTr" if (folder / "imagesTr").is_dir() else folder
    target = settings.results / f"{folder.resolve().name}_cubes"
    report = generate_cubes(source, target, cubes)
    print(f"{report.cubes} cubes in {len(report.files)} files in {target}")
    return int(bool(report.failed))


def find_places(settings: PreprocessSettings) -> int:
    """Self-discovery in a preprocessed folder: the index of patterns, how alike their instances are, a picture."""
    folder = settings.dataset or settings.results / f"{task_code(str(settings.task))}_{settings.dim}d"
    plan = Plan.load(folder)
    if plan.dim != 3:
        raise PlanError(f"{folder} is of a 2D plan; patterns are found in --dim 3")
    assert settings.features is not None  # the settings ask for it
    _, validation = split(list_cases(folder), settings.nfolds, settings.fold)
    wanted = PatternSettings(
        cube_size=settings.cube_size,  # type: ignore[arg-type]
        classes=settings.classes,
        instances=settings.instances,
        val_instances=settings.val_instances,
        border=settings.border,  # type: ignore[arg-type]
        distance=settings.distance,
        multi_res=settings.multi_res,
        tissue_filter=settings.tissue_filter and plan.normalization[0].scheme == "ct",
        tissue_max=settings.tissue_max,
        seed=settings.seed,
    )
    console = Console()
    say = partial(_say, console)
    target = index_path(folder, settings.fold)
    started = time.perf_counter()
    patterns = find_patterns(folder, settings.features, validation, wanted, target, say=say)
    counts = f"{len(patterns.training)} cubes to train on, {len(patterns.validation)} to validate on"
    say(f"{target}: {len(patterns.places)} classes, {counts}, in {time.perf_counter() - started:.1f} s")
    alike = measure(folder, patterns, COMPARED)
    say(
        f"Mean correlation of cubes: {alike.within:.3f} within a class, {alike.between:.3f} between classes, "
        f"{alike.random:.3f} at random places"
    )
    picture = target.with_suffix(".png")
    draw_patterns(picture, instances(folder, patterns, SHOWN))
    say(f"{picture}: the {SHOWN} nearest instances of every class")
    if settings.write_cubes:
        write_published(folder, patterns, target.parent, settings.fold, say=say)
    return 0


def preprocess(settings: PreprocessSettings) -> int:
    """Check every case, write the plan, then the cases; see :func:`main` for the result."""
    console = Console()
    folder = settings.dataset or task_folder(settings.data, str(settings.task), settings.name)
    dataset = read_dataset(folder)
    task = None if settings.dataset or settings.name else TASKS.get(task_code(str(settings.task)))
    name = f"{task_code(settings.task) if settings.task else dataset.name}_{settings.dim}d"
    root = settings.results / name
    training = settings.exec_mode == "training"
    target = root if training else root / settings.exec_mode
    scans = dataset.test if settings.exec_mode == "test" else dataset.training
    if not scans:
        raise DatasetError(f"{folder} has no scans for --exec_mode {settings.exec_mode}")
    jobs = min(cpu_count() if settings.n_jobs == -1 else settings.n_jobs, len(scans))

    plan = None if training or not (root / PLAN_FILE).is_file() else _earlier_plan(root, dataset, settings)
    facts = _look(scans, dataset, task, plan, settings, jobs, console)
    faults = {entry.case: list(entry.faults) for entry in facts if entry.faults}
    if len(faults) == len(scans):
        return _report(faults, len(scans))
    if plan is None:
        same = scans is dataset.training
        basis = facts if same else _look(dataset.training, dataset, task, plan, settings, jobs, console)
        plan = make_plan(
            basis, dataset, name=name, dim=settings.dim, ohe=settings.ohe, task=task, modality=settings.modality
        )
        plan = _reshaped(plan, basis, settings, console)
        if not dataset.channels and settings.modality is None:
            _say(console, f"Modality taken for {plan.channels[0]} by its intensities; --modality says otherwise.")
    target.mkdir(parents=True, exist_ok=True)
    _put_plan(plan, target, console)
    _say(console, _plan_line(plan))

    sound = [scan for scan in scans if scan.case not in faults]
    started = time.perf_counter()
    outcomes = []
    work = run(sound, plan, target, pad_to_patch=training, float16=settings.float16, jobs=jobs)
    for outcome in _shown(work, "Preprocessing", len(sound), console):
        outcomes.append(outcome)
        if outcome.fault:
            faults[outcome.case] = [outcome.fault]
        if settings.verbose and outcome.info:
            _say(console, f"{outcome.case}: {outcome.info.shape_stored}, {outcome.info.seconds:.2f} s")
    _summary(outcomes, target, plan, time.perf_counter() - started, console)
    _strangers(target, scans, console)
    return _report(faults, len(scans))


def _earlier_plan(root: Path, dataset: Dataset, settings: PreprocessSettings) -> Plan:
    """The plan of the training cases, which validation and test cases follow."""
    plan = Plan.load(root)
    if plan.recipe != settings.recipe:
        raise PlanError(
            f"{root / PLAN_FILE} is of --recipe {plan.recipe}; preprocess both alike, or use another --results"
        )
    if plan.dataset != dataset.name or plan.ohe != settings.ohe:
        raise PlanError(
            f"{root / PLAN_FILE} is of {plan.dataset}{' with' if plan.ohe else ' without'} --ohe, not of {dataset.name}"
            f"{' with' if settings.ohe else ' without'} it; preprocess both alike, or use another --results"
        )
    return plan


def _reshaped(plan: Plan, facts: Sequence[Facts], settings: PreprocessSettings, console: Console) -> Plan:
    """With the patch size that was asked for, and as --recipe has it."""
    if settings.recipe == "default":
        return plan.with_(patch_size=settings.patch_size) if settings.patch_size else plan
    sound = [entry for entry in facts if not entry.faults]
    plan = plan.with_(patch_size=settings.patch_size or INPUT_SIZE)
    depth_first = [(entry.shape_cropped[::-1], entry.spacing_mm[::-1]) for entry in sound]
    if turned := [pair for pair in depth_first if looks_depth_last(*pair)]:
        shape, spacing_mm = (" x ".join(f"{value:g}" for value in values) for values in turned[0])
        _say(
            console,
            f"warning: {len(turned)} of {len(sound)} scans look as if their depth came last, such as {shape} voxels of "
            f"{spacing_mm} mm, where --recipe medicalnet takes the first axis for the depth: store them depth first, "
            "or leave --recipe out (the default reads the depth last)",
        )
    return as_published(plan, *zip(*depth_first, strict=True))


def _look(
    scans: Sequence[Scan],
    dataset: Dataset,
    task: Task | None,
    plan: Plan | None,
    settings: PreprocessSettings,
    jobs: int,
    console: Console,
) -> list[Facts]:
    """Facts of every scan, sorted by case."""
    ct = settings.modality != "MRI" if not dataset.channels else any(c.upper() == "CT" for c in dataset.channels)
    intensities = ct and plan is None and not (task and task.ct)
    work = examine(scans, dataset, intensities=intensities, jobs=jobs)
    return sorted(_shown(work, "Checking", len(scans), console), key=lambda entry: entry.case)


def _shown(items: Iterable[T], what: str, total: int, console: Console) -> Iterator[T]:
    """The items behind a progress bar, or after one line where the output is no terminal."""
    if console.is_terminal:
        yield from track(items, description=what, total=total, console=console)
        return
    _say(console, f"{what} {total} cases ...")
    yield from items


def _say(console: Console, text: str) -> None:
    """A line as it is: no wrapping, and brackets of file names are no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _put_plan(plan: Plan, folder: Path, console: Console) -> None:
    """Write the plan; cases of another plan cease to exist first, so that a kill in between leaves no mixture."""
    if (folder / PLAN_FILE).is_file():
        try:
            if Plan.load(folder) == plan:
                return
            reason = "their plan was another"
        except PlanError as error:
            reason = str(error)
        stale = list_cases(folder)
        for case in stale:
            (folder / f"{case}.json").unlink()
        _say(console, f"{len(stale)} cases in {folder} are made anew: {reason}.")
    plan.save(folder)


def _plan_line(plan: Plan) -> str:
    spacing = " x ".join(f"{length:.4g}" for length in plan.spacing_mm)
    patch = " x ".join(map(str, plan.patch_size))
    how = ", ".join(f"{c} {n.scheme}" for c, n in zip(plan.channels, plan.normalization, strict=True))
    source = f" (from voxels: {plan.intensities_from})" if any(n.scheme == "ct" for n in plan.normalization) else ""
    voxels = f"voxels {spacing} mm" if plan.dim == 3 else "voxels as scanned"
    if plan.recipe == "medicalnet":
        return f"Plan {plan.name}: recipe medicalnet, scans (depth first) resized to {patch}, {plan.n_class} classes"
    return f"Plan {plan.name}: {voxels}, patch {patch}, {plan.n_class} classes, {how}{source}"


def _summary(outcomes: Sequence[Outcome], folder: Path, plan: Plan, seconds: float, console: Console) -> None:
    """A table of shapes and times over the cases that are there now."""
    infos = [outcome.info for outcome in outcomes if outcome.info]
    if not infos:
        return
    table = Table(title=f"{folder}", caption=f"axes D, H, W; {seconds:.1f} s in all", show_edge=False)
    for heading in ("", "least", "median", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = {
        "scan": [info.geometry.shape_dhw for info in infos],
        "cropped": [info.shape_cropped for info in infos],
        "stored": [info.shape_stored for info in infos],
    }
    for title, shapes in rows.items():
        ends = (np.min(shapes, axis=0), np.median(shapes, axis=0), np.max(shapes, axis=0))
        table.add_row(title, *(" x ".join(f"{side:g}" for side in shape) for shape in ends))
    times = [info.seconds for info in infos]
    table.add_row("seconds a case", *(f"{t:.2f}" for t in (min(times), float(np.median(times)), max(times))))
    console.print(table)
    if 0 < len(infos[0].voxels_per_class) <= 10:
        counts = np.sum([info.voxels_per_class for info in infos], axis=0)
        shares = ", ".join(f"{n} {100 * c / counts.sum():.3g} %" for n, c in zip(plan.labels, counts, strict=True))
        _say(console, f"Voxels: {shares}")
    kept = sum(outcome.kept for outcome in outcomes)
    _say(console, f"{len(infos)} cases in {folder}" + (f", {kept} of them from an earlier run" if kept else ""))


def _strangers(folder: Path, scans: Sequence[Scan], console: Console) -> None:
    """Say which cases lie in the folder without being the dataset's: training would use them."""
    if others := sorted(set(list_cases(folder)) - {scan.case for scan in scans}):
        _say(console, f"warning: {folder} also holds {', '.join(others)}, not in the dataset; delete their .json files")


def _report(faults: dict[str, list[str]], total: int) -> int:
    if not faults:
        return 0
    print(f"error: {len(faults)} of {total} cases cannot be used:", file=sys.stderr)
    for case, found in sorted(faults.items()):
        print(f"  {case}: {'; '.join(found)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_command(main)
