"""Semantic Genesis as a method: tell patterns apart and restore them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cases.case import CaseError, list_cases
from cases.plan import Plan
from cases.settings import Given, Settings, at_least, setting
from pretraining.base import Method, Pretraining, Run
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.source import cube_plan
from pretraining.restoration import mean_and_deviation
from pretraining.semantic.files import index_path, read_patterns
from pretraining.semantic.module import Experiment, SemanticModule
from pretraining.semantic.patterns import PatternError
from pretraining.semantic.source import PatternPatches, PublishedPatterns
from pretraining.semantic.transformations import SemanticTransformations
from pretraining.source import Patches


def _weight(value: float) -> str:
    return "" if value >= 0 else "cannot be negative"


@dataclass(frozen=True, kw_only=True)
class SemanticSettings(Settings):
    """Semantic Genesis: patterns and losses."""

    error: ClassVar[type[ValueError]] = PatternError
    refuses: ClassVar[Mapping[str, str]] = {
        "patch_size": "the patterns have their size",
        **dict.fromkeys(("cubes", "outputs"), "--cubes and --outputs are for --method genesis"),
    }

    exp: Experiment = setting(
        "en_de", "en trains the encoder by the classes alone; en_de trains the whole network by classes and restoration"
    )
    lambda_rec: float = setting(1.0, "weight of the restoration's squared error under --exp en_de", check=_weight)
    lambda_cls: float = setting(0.01, "weight of the classes' cross entropy under --exp en_de", check=_weight)
    patterns: Path | None = setting(
        None,
        "index (.npy) that preprocess.py --exec_mode patterns made, or a folder of published cubes "
        "(train_data1_vwGen_ex_ref_fold<fold>.npy, ...); None: patterns/patterns_fold<fold>.npy of --data",
    )
    classes: int | None = setting(
        None, "the first classes only, such as 44 of the published 50; None: all", check=at_least(2)
    )
    z_score: tuple[float, ...] | None = setting(
        None,
        "mean and standard deviation in HU: the corrupted cube, in [0, 1], becomes -1000 to 1000 HU and is z-scored",
        check=mean_and_deviation,
    )


class SemanticGenesis(Method):
    """Haghighi et al. 2020, doi:10.1007/978-3-030-59710-8_14."""

    settings = (SemanticTransformations, SemanticSettings)
    dims = (3,)

    def build(self, given: Given, run: Run) -> Pretraining:
        own = given[SemanticSettings]
        where = own.patterns or index_path(run.folder, run.fold)
        plan, train, validation, n_class = (_published if where.is_dir() else _discovered)(where, own, run)
        module = SemanticModule(
            plan,
            run.network,
            n_class=n_class,
            exp=own.exp,
            lambda_rec=own.lambda_rec,
            lambda_cls=own.lambda_cls,
            z_score=own.z_score,
            **run.for_module(),
        )
        corruption = GenesisCorruption(given[SemanticTransformations])
        return Pretraining(module=module, train=train, validation=validation, corruption=corruption)


def _published(where: Path, own: SemanticSettings, run: Run) -> tuple[Plan, Patches, Patches, int]:
    """The authors' own cubes."""
    train = PublishedPatterns(where, "train", run.fold, own.classes)
    validation = PublishedPatterns(where, "val", run.fold, train.n_class)
    return cube_plan(where, train.size_dhw), train, validation, train.n_class


def _discovered(where: Path, own: SemanticSettings, run: Run) -> tuple[Plan, Patches, Patches, int]:
    """Cubes of an index of patterns."""
    patterns = read_patterns(where)
    _check_scans(run.folder, patterns.cases, where)
    plan = run.unmirrored_plan().with_(patch_size=patterns.cube_dhw)
    n_class = min(own.classes or len(patterns.places), len(patterns.places))
    train, validation = (
        PatternPatches(run.folder, patterns, rows[rows[:, 0] < n_class], plan.in_channels)
        for rows in (patterns.training, patterns.validation)
    )
    return plan, train, validation, n_class


def _check_scans(folder: Path, cases: tuple[str, ...], index: Path) -> None:
    if missing := sorted(set(cases) - set(list_cases(folder))):
        raise CaseError(
            f"{index} names {len(missing)} scans that {folder} does not hold, such as {missing[0]}: "
            "give the --data that it was made from, or run preprocess.py --exec_mode patterns again"
        )
