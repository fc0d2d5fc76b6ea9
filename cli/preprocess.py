"""The modes of preprocess.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cases.plan import Plan, PlanError
from cases.settings import Given, Settings, setting
from cases.splits import FoldSettings, fold_cases
from cases.volumes import FormatSettings, use_formats
from cli.compose import Program
from cli.mode import Mode
from data_preprocessing.commands import GROUPS, preprocess
from data_preprocessing.places import CasesSettings, DatasetSettings
from data_preprocessing.planning.making import DimensionSettings, ModalitySettings
from data_preprocessing.report import say
from pretraining.genesis.cubes import CubeSettings, generate_cubes
from pretraining.semantic.files import PatternFileSettings, find_patterns, index_path, write_published
from pretraining.semantic.patterns import PatternSettings
from pretraining.semantic.pictures import draw_patterns
from pretraining.semantic.report import instances, measure

COMPARED = 10  # instances of a class whose likeness is measured
SHOWN = 10  # instances of a class in the picture


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


MODES = (
    Mode(
        name="--exec_mode training",
        help="write the cases to train on, and the plan that all others follow",
        chosen_by={"exec_mode": "training"},
        groups=GROUPS,
        run=partial(preprocess, part="training"),
    ),
    Mode(
        name="--exec_mode val",
        help="write the training cases as a trained network sees them, without padding",
        chosen_by={"exec_mode": "val"},
        groups=GROUPS,
        run=partial(preprocess, part="val"),
    ),
    Mode(
        name="--exec_mode test",
        help="write the test cases, without labels",
        chosen_by={"exec_mode": "test"},
        groups=GROUPS,
        run=partial(preprocess, part="test"),
    ),
    Mode(
        name="--exec_mode cubes",
        help="cut Models Genesis cubes out of unlabelled scans",
        chosen_by={"exec_mode": "cubes"},
        groups=(DatasetSettings, FormatSettings, ModalitySettings, CubeSettings),
        run=make_cubes,
    ),
    Mode(
        name="--exec_mode patterns",
        help="Semantic Genesis: discover patterns in preprocessed cases",
        chosen_by={"exec_mode": "patterns"},
        groups=(CasesSettings, DimensionSettings, FoldSettings, PatternFileSettings, PatternSettings),
        run=make_patterns,
    ),
)


@dataclass(frozen=True, kw_only=True)
class PreprocessModeSettings(Settings):
    """What is made."""

    exec_mode: Literal["training", "val", "test", "cubes", "patterns"] = setting("training", "what is made")
    config: Path | None = setting(None, "TOML or JSON file with settings; flags win over it", kept=False)


def choose(values: Mapping[str, Any]) -> Mode:
    """The mode of these values of PreprocessModeSettings."""
    return next(mode for mode in MODES if mode.chosen_by["exec_mode"] == values["exec_mode"])


PROGRAM = Program(
    description="Scans to preprocessed cases.", modes=MODES, selectors=(PreprocessModeSettings,), choose=choose
)


def parse_preprocess(argv: Sequence[str]) -> Given:
    """The settings that preprocess.py would run with."""
    return PROGRAM.parse(argv)[1]
