"""The modes of preprocess.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from rich.console import Console

from cases.plan import Plan, PlanError
from cases.settings import Given, Settings
from cases.splits import FoldSettings, fold_cases
from cases.volumes import FormatSettings, use_formats
from data_preprocessing.commands import GROUPS, preprocess
from data_preprocessing.places import CasesSettings, DatasetSettings
from data_preprocessing.planning.making import DimensionSettings, ModalitySettings
from data_preprocessing.report import say
from pretraining.genesis.cubes import CubeSettings, generate_cubes
from pretraining.semantic.pattern_files import PatternFileSettings, find_patterns, index_path, write_published
from pretraining.semantic.pattern_report import instances, measure
from pretraining.semantic.patterns import PatternSettings
from pretraining.semantic.pictures import draw_patterns

COMPARED = 10  # instances of a class whose likeness is measured
SHOWN = 10  # instances of a class in the picture

Groups = tuple[type[Settings], ...]

CUBES: Groups = (DatasetSettings, FormatSettings, ModalitySettings, CubeSettings)
PATTERNS: Groups = (CasesSettings, DimensionSettings, FoldSettings, PatternFileSettings, PatternSettings)


def make_cubes(given: Given) -> int:
    """Cube files of a folder of scans, or of a task's training scans; returns 1 if a scan gave none."""
    use_formats(given[FormatSettings].formats)
    cubes, place = given[CubeSettings], given[DatasetSettings]
    cubes = cubes.for_mri() if given[ModalitySettings].modality == "MRI" else cubes
    folder = place.folder
    source = folder / "imagesTr" if (folder / "imagesTr").is_dir() else folder
    target = place.results / f"{folder.resolve().name}_cubes"
    report = generate_cubes(source, target, cubes)
    print(f"{report.cubes} cubes in {len(report.files)} files in {target}")
    return int(bool(report.failed))


def make_patterns(given: Given) -> int:
    """Self-discovery in a preprocessed folder: the index of patterns, how alike their instances are, a picture."""
    folder = given[CasesSettings].preprocessed(given[DimensionSettings].dim)
    files, wanted, fold = given[PatternFileSettings], given[PatternSettings], given[FoldSettings]
    plan = Plan.load(folder)
    if plan.dim != 3:
        raise PlanError(f"{folder} is of a 2D plan; patterns are found in --dim 3")
    wanted = wanted.for_plan(plan)
    _, validation = fold_cases(folder, fold)
    tell = partial(say, Console())
    target = index_path(folder, fold.fold)
    started = time.perf_counter()
    patterns = find_patterns(folder, files.features, validation, wanted, target, say=tell)
    counts = f"{len(patterns.training)} cubes to train on, {len(patterns.validation)} to validate on"
    tell(f"{target}: {len(patterns.places)} classes, {counts}, in {time.perf_counter() - started:.1f} s")
    alike = measure(folder, patterns, COMPARED)
    tell(
        f"Mean correlation of cubes: {alike.within:.3f} within a class, {alike.between:.3f} between classes, "
        f"{alike.random:.3f} at random places"
    )
    picture = target.with_suffix(".png")
    draw_patterns(picture, instances(folder, patterns, SHOWN))
    tell(f"{picture}: the {SHOWN} nearest instances of every class")
    if files.write_cubes:
        write_published(folder, patterns, target.parent, fold.fold, say=tell)
    return 0


MODES: dict[str, tuple[Groups, Callable[[Given], int]]] = {
    "training": (GROUPS, partial(preprocess, part="training")),
    "val": (GROUPS, partial(preprocess, part="val")),
    "test": (GROUPS, partial(preprocess, part="test")),
    "cubes": (CUBES, make_cubes),
    "patterns": (PATTERNS, make_patterns),
}


def run_mode(settings: Any) -> int:
    """Run the mode of the flat settings that the root module ``settings`` has parsed.

    Raises:
        ValueError, OSError: our own, that name what is wrong.
    """
    groups, run = MODES[settings.exec_mode]
    flat = {name: value for name, value in vars(settings).items() if value is not None}
    return run(Given(tuple(kind(**{e.name: flat[e.name] for e in fields(kind) if e.name in flat}) for kind in groups)))
