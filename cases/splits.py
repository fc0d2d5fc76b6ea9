"""Folds of cross-validation: drawn as nnU-Net draws them, or given in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cases.case import list_cases
from cases.settings import Settings, above, at_least, setting
from cases.volumes import stem

SHUFFLE_SEED = 12345  # nnU-Net's and NVIDIA's: the same cases land in the same folds


class SplitError(ValueError):
    """A fold that cannot be made."""


@dataclass(frozen=True, kw_only=True)
class FoldSettings(Settings):
    """Which cases train and which validate."""

    error: ClassVar[type[ValueError]] = SplitError

    nfolds: int = setting(5, "folds of the cross-validation", check=at_least(2))
    fold: int = setting(0, "the fold that validates")
    splits: tuple[Path, ...] | None = setting(
        None,
        "folds of your own instead of --nfolds: nnU-Net's splits_final.json, or two text files that name the cases "
        "to train and to validate on, one a line",
        kept=False,
    )

    def faults(self) -> list[str]:
        if self.splits is not None:
            return [] if len(self.splits) in (1, 2) else ["--splits takes one JSON file or two text files"]
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
        SplitError: where the folder has too few cases, or other ones than ``splits`` names.
    """
    cases = list_cases(folder)
    if settings.splits is None:
        train_cases, val_cases = split(cases, settings.nfolds, settings.fold)
    else:
        train_cases, val_cases = read_split(settings.splits, settings.fold)
        _check_split(settings.splits, train_cases, val_cases, cases, folder)
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


def read_split(files: Sequence[Path], fold: int) -> tuple[list[str], list[str]]:
    """Training and validation cases as one JSON file or two text files name them, each sorted.

    The JSON is nnU-Net's: a list of folds, each ``{"train": [names], "val": [names]}``. A line of a text file begins
    with a name, or with an image's path, as MedicalNet's lists do.

    Raises:
        SplitError: naming the file, for files that are neither and for a fold that they have not.
    """
    if len(files) == 1:
        return _read_json(files[0], fold)
    if fold:
        raise SplitError(f"--fold {fold}: the lists {files[0]} and {files[1]} are of one fold, --fold 0")
    train, validation = (_read_list(path) for path in files)
    return train, validation


def _read_json(path: Path, fold: int) -> tuple[list[str], list[str]]:
    try:
        folds = json.loads(_read_text(path))
        sides = [(sorted(each["train"]), sorted(each["val"])) for each in folds]
        names = [name for pair in sides for side in pair for name in side]
    except (json.JSONDecodeError, TypeError, KeyError, RecursionError):
        names = [None]
    if not names or not all(isinstance(name, str) for name in names):
        raise SplitError(
            f'{path} is no list of folds such as [{{"train": ["a", "b"], "val": ["c"]}}]; of text files --splits takes '
            "two, the cases to train on and those to validate on"
        )
    if not 0 <= fold < len(sides):
        raise SplitError(f"--fold {fold}: {path} has folds 0 to {len(sides) - 1}")
    return sides[fold]


def _read_list(path: Path) -> list[str]:
    lines = (line.split() for line in _read_text(path).splitlines())
    names = sorted(stem(Path(words[0])) for words in lines if words)
    if not names:
        raise SplitError(f"{path} names no case")
    return names


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SplitError(f"--splits {path} cannot be read as text: {error}") from error


def _check_split(
    files: Sequence[Path], train: Sequence[str], validation: Sequence[str], cases: Sequence[str], folder: Path
) -> None:
    """Raises SplitError for names that are no case of the folder, that come twice, and for an empty side."""
    faults, known, named = [], set(cases), [*train, *validation]
    if unknown := sorted(set(named) - known):
        faults.append(f"{', '.join(unknown)}: no such case in {folder}")
    if both := sorted(set(train) & set(validation)):
        faults.append(f"{', '.join(both)}: both to train and to validate on")
    if twice := sorted({name for side in (train, validation) for name in side if side.count(name) > 1}):
        faults.append(f"{', '.join(twice)}: named twice")
    if not train or not validation:
        faults.append("a fold needs cases to train on and cases to validate on")
    if faults:
        raise SplitError(f"--splits {' '.join(map(str, files))}: {'; '.join(faults)}")


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
