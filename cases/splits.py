"""Folds of cross-validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import KFold

SHUFFLE_SEED = 12345  # nnU-Net's and NVIDIA's: the same cases land in the same folds


class SplitError(ValueError):
    """A fold that cannot be made."""


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
