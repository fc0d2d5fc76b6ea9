"""Folds of cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cases.case import list_cases
from cases.settings import Settings, above, at_least, setting

SHUFFLE_SEED = 12345  # nnU-Net's and NVIDIA's: the same cases land in the same folds


class SplitError(ValueError):
    """A fold that cannot be made."""


@dataclass(frozen=True, kw_only=True)
class FoldSettings(Settings):
    """Which cases train and which validate."""

    error: ClassVar[type[ValueError]] = SplitError

    nfolds: int = setting(5, "folds of the cross-validation", check=at_least(2))
    fold: int = setting(0, "the fold that validates")

    def faults(self) -> list[str]:
        if self.nfolds < 2 or 0 <= self.fold < self.nfolds:
            return []
        return [f"--fold {self.fold} is not among the {self.nfolds} folds 0..{self.nfolds - 1}"]


@dataclass(frozen=True, kw_only=True)
class TrainingFoldSettings(FoldSettings):
    """Which cases train and which validate."""

    train_cases: int | None = setting(
        None,
        "learn from this many cases only, drawn from the fold's by --seed; fewer are a part of more",
        check=above(0),
    )


def fold_cases(folder: Path, settings: FoldSettings, *, seed: int = 1) -> tuple[list[str], list[str]]:
    """Training and validation cases of a preprocessed folder's fold, each sorted.

    Args:
        folder: preprocessed.
        settings: the fold; with ``train_cases`` so many of its training cases.
        seed: by which these are drawn.

    Raises:
        SplitError: where the folder has too few cases.
    """
    train_cases, val_cases = split(list_cases(folder), settings.nfolds, settings.fold)
    if isinstance(settings, TrainingFoldSettings) and settings.train_cases is not None:
        train_cases = draw_cases(train_cases, settings.train_cases, seed)
    return train_cases, val_cases


def split(cases: Sequence[str], nfolds: int, fold: int) -> tuple[list[str], list[str]]:
    """Training and validation cases of one fold, each sorted.

    Raises:
        SplitError: for a fold outside 0 to nfolds - 1, or fewer cases than folds.
    """
    names = sorted(cases)
    if not 0 <= fold < nfolds:
        raise SplitError(f"--fold {fold} is not among the {nfolds} folds 0 to {nfolds - 1}")
    if nfolds < 2 or len(names) < nfolds:
        fewest = {0: "preprocess some", 1: "at least 2 are needed", 2: "use --nfolds 2"}
        remedy = fewest.get(len(names), f"use --nfolds between 2 and {len(names)}")
        raise SplitError(f"{len(names)} {'case' if len(names) == 1 else 'cases'} cannot make {nfolds} folds; {remedy}")
    from sklearn.model_selection import KFold  # takes a second to import, and settings come without

    folds = list(KFold(nfolds, shuffle=True, random_state=SHUFFLE_SEED).split(names))
    train, validation = folds[fold]
    return [names[i] for i in train], [names[i] for i in validation]


def draw_cases(cases: Sequence[str], number: int, seed: int) -> list[str]:
    """Some of the cases, sorted; with the same seed a smaller number gives a part of a larger one's.

    Raises:
        SplitError: where there are not as many.
    """
    if not 0 < number <= len(cases):
        raise SplitError(f"--train_cases {number}: the fold has {len(cases)} training cases")
    order = np.random.default_rng(seed).permutation(len(cases))
    names = sorted(cases)
    return sorted(names[i] for i in order[:number])
