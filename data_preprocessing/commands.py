"""Scans to preprocessed cases: look at every case, make or follow the plan, then prepare and write each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from joblib import cpu_count
from rich.console import Console

from cases.case import list_cases, name_faults
from cases.plan import PLAN_FILE, Plan, PlanError
from cases.registry import stored_name
from cases.settings import Given, Settings, setting
from cases.volumes import FormatSettings, use_formats
from data_preprocessing.layouts import Dataset, DatasetError, LayoutSettings, read_dataset
from data_preprocessing.layouts.dataset import Scan
from data_preprocessing.places import DatasetSettings
from data_preprocessing.planning.fingerprint import Facts, examine
from data_preprocessing.planning.making import ModalitySettings, PlanSettings, make_plan, needs_statistics
from data_preprocessing.preprocessor import Outcome, PrepareError, run
from data_preprocessing.recipes import RECIPES, Recipe, RecipeSettings, recipe_of
from data_preprocessing.report import report_faults, say, shown, strangers, summary

Part = Literal["training", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class PreprocessSettings(Settings):
    """How cases are written."""

    error: ClassVar[type[ValueError]] = PrepareError

    float16: bool = setting(False, "store images as float16: half the bytes")
    n_jobs: int = setting(-1, "processes; -1: one per core")
    verbose: bool = setting(False, "print every case")

    def faults(self) -> list[str]:
        if self.n_jobs == 0 or self.n_jobs < -1:
            return [f"--n_jobs {self.n_jobs}: a number of processes, or -1 for one per core"]
        return []

    def jobs(self, scans: int) -> int:
        """Processes for so many scans."""
        return max(1, min(cpu_count() if self.n_jobs == -1 else self.n_jobs, scans))


GROUPS: tuple[type[Settings], ...] = (
    DatasetSettings,
    LayoutSettings,
    FormatSettings,
    ModalitySettings,
    PlanSettings,
    RecipeSettings,
    PreprocessSettings,
)


def preprocess(given: Given, part: Part) -> int:
    """Check every case, write the plan, then the cases.

    Args:
        given: one of each of ``GROUPS``.
        part: "training", padded to the patch, with a plan of its own; "val", the same scans, and "test", those without
            labels, both by the training cases' plan and without padding.

    Returns:
        the exit status: 0, or 1 where a case could not be used.

    Raises:
        ValueError, OSError: our own, that name what is wrong with the dataset or the settings.
    """
    use_formats(given[FormatSettings].formats)
    console = Console()
    recipe: Recipe = RECIPES.make(given[RecipeSettings].recipe)
    if faults := _recipe_faults(recipe, given):
        raise PlanError("--" + "; --".join(faults))
    folder = given[DatasetSettings].folder
    dataset = read_dataset(folder, given[LayoutSettings].layout)
    name = given[DatasetSettings].preprocessed_name(dataset.name, given[PlanSettings].dim)
    root = given[DatasetSettings].results / name
    training = part == "training"
    target = root if training else root / part
    scans = dataset.test if part == "test" else dataset.training
    misnamed = name_faults(scan.case for scan in scans)
    named = [scan for scan in scans if scan.case not in misnamed]
    if not scans:
        hint = " without labels: --exec_mode test prepares them" if dataset.test else ""
        raise DatasetError(f"{folder} has {'only scans' if hint else 'no scans for --exec_mode ' + part}{hint}")

    plan = None if training or not (root / PLAN_FILE).is_file() else _earlier_plan(root, dataset, given)
    facts = _look(named, dataset, plan, given, console)
    faulty = {case: [fault] for case, fault in misnamed.items()}
    faulty |= {entry.case: list(entry.faults) for entry in facts if entry.faults}
    if len(faulty) == len(scans):
        return report_faults(faulty, len(scans))
    if plan is None:
        itself = scans is dataset.training or not dataset.training  # of a challenge's folder of validation cases
        basis = facts if itself else _look(dataset.training, dataset, plan, given, console)
        plan = _new_plan(basis, dataset, name, recipe, given, console)
    target.mkdir(parents=True, exist_ok=True)
    _put_plan(plan, target, console)
    say(console, f"Plan {plan.name}: {recipe.describe(plan)}")
    if plan.label_values:
        pairs = ", ".join(f"{value} to {index}" for index, value in enumerate(plan.values) if value != index)
        say(console, f"Label values have gaps and are stored as classes, {pairs}; predictions have the files' values")

    sound = [scan for scan in scans if scan.case not in faulty]
    started = time.perf_counter()
    outcomes = _prepare(sound, plan, target, part, given, console)
    faulty |= {outcome.case: [outcome.fault] for outcome in outcomes if outcome.fault}
    summary(outcomes, target, plan, time.perf_counter() - started, console)
    strangers(target, scans, console)
    return report_faults(faulty, len(scans))


def _recipe_faults(recipe: Recipe, given: Given) -> list[str]:
    wanted = given[PlanSettings]
    return recipe.faults(
        dim=wanted.dim,
        ohe=wanted.ohe,
        normalization=given[RecipeSettings].normalization,
        spacing=wanted.spacing,
        resample=wanted.resample,
        crop=wanted.crop,
    )


def _earlier_plan(root: Path, dataset: Dataset, given: Given) -> Plan:
    """The plan of the training cases, which validation and test cases follow."""
    plan = Plan.load(root)
    if plan.recipe != stored_name(given[RecipeSettings].recipe):
        raise PlanError(
            f"{root / PLAN_FILE} is of --recipe {plan.recipe}; preprocess both alike, or use another --results"
        )
    if plan.dataset != dataset.name or plan.ohe != given[PlanSettings].ohe:
        raise PlanError(
            f"{root / PLAN_FILE} is of {plan.dataset}{' with' if plan.ohe else ' without'} --ohe, not of {dataset.name}"
            f"{' with' if given[PlanSettings].ohe else ' without'} it; preprocess both alike, or use another --results"
        )
    if others := _contradictions(plan, given):
        raise PlanError(f"{root / PLAN_FILE} is of {' '.join(others)}; preprocess both alike, or use another --results")
    recipe_of(plan, given[RecipeSettings].own)  # one that cannot be followed is one message, not one for every case
    return plan


def _contradictions(plan: Plan, given: Given) -> list[str]:
    """The plan's own settings, as flags, where the command line names others; what it leaves out, the plan decides."""
    wanted, names = given[PlanSettings], given[RecipeSettings].normalization
    schemes = [how.scheme for how in plan.normalization]
    asked = [stored_name(name) for name in names or schemes]
    others = []
    if (asked * len(schemes) if len(asked) == 1 else asked) != schemes:
        others.append(f"--normalization {' '.join(schemes)}")
    if wanted.spacing is not None and wanted.spacing != plan.spacing_mm:
        others.append(f"--spacing {' '.join(f'{length:g}' for length in plan.spacing_mm)}")
    others += ["--resample"] * (plan.resample and not wanted.resample)
    return others + ["--crop"] * (plan.crop and not wanted.crop)


def _new_plan(
    facts: Sequence[Facts], dataset: Dataset, name: str, recipe: Recipe, given: Given, console: Console
) -> Plan:
    """The plan of the training scans, as the recipe and the settings want it."""
    plan = make_plan(
        facts,
        dataset,
        name=name,
        dim=given[PlanSettings].dim,
        ohe=given[PlanSettings].ohe,
        task=given[DatasetSettings].known_task,
        modality=given[ModalitySettings].modality,
        normalization=given[RecipeSettings].normalization,
        spacing_mm=given[PlanSettings].spacing,
        resample=given[PlanSettings].resample,
        crop=given[PlanSettings].crop,
    ).with_(recipe=stored_name(given[RecipeSettings].recipe))
    sound = [entry for entry in facts if not entry.faults]
    plan, warnings = recipe.planned(plan, sound, given[PlanSettings].patch_size)
    for warning in warnings:
        say(console, f"warning: {warning}")
    if not dataset.channels and given[ModalitySettings].modality is None:
        say(console, f"Modality taken for {plan.channels[0]} by its intensities; --modality says otherwise.")
    return plan


def _look(scans: Sequence[Scan], dataset: Dataset, plan: Plan | None, given: Given, console: Console) -> list[Facts]:
    """Facts of every scan, sorted by case."""
    intensities = plan is None and needs_statistics(
        dataset,
        given[DatasetSettings].known_task,
        given[ModalitySettings].modality,
        given[RecipeSettings].normalization,
    )
    jobs = given[PreprocessSettings].jobs(len(scans))
    work = examine(scans, dataset, intensities=intensities, jobs=jobs, crop=given[PlanSettings].crop)
    return sorted(shown(work, "Checking", len(scans), console), key=lambda entry: entry.case)


def _prepare(
    scans: Sequence[Scan], plan: Plan, target: Path, part: Part, given: Given, console: Console
) -> list[Outcome]:
    """Every scan's outcome; each is said with --verbose."""
    work = run(
        scans,
        plan,
        target,
        pad_to_patch=part == "training",
        float16=given[PreprocessSettings].float16,
        jobs=given[PreprocessSettings].jobs(len(scans)),
        own=given[RecipeSettings].own,
    )
    outcomes = []
    for outcome in shown(work, "Preprocessing", len(scans), console):
        outcomes.append(outcome)
        if given[PreprocessSettings].verbose and outcome.info:
            say(console, f"{outcome.case}: {outcome.info.shape_stored}, {outcome.info.seconds:.2f} s")
    return outcomes


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
        say(console, f"{len(stale)} cases in {folder} are made anew: {reason}.")
    plan.save(folder)
