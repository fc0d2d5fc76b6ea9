"""Patches with the classes of their scan, and the table that holds them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data_loading.sources.patches import PatchSource
from data_loading.sources.source import SampleInfo


class ClassTableError(ValueError):
    """A table of classes that cannot be read, or does not fit the cases."""


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Classes of scans.

    Attributes:
        names: of the classes, or of the labels where a scan may have several.
        targets: by case: float32, (1,) the class' number, or (labels,) of 0 and 1.
    """

    names: tuple[str, ...]
    targets: Mapping[str, np.ndarray]


def read_classes(path: Path, cases: Sequence[str], kind: Literal["ce", "bce"]) -> ClassTable:
    """Read ``case,label[,label...]`` with a heading line; cases that are not in the folder are left out.

    Args:
        cases: of the folder; those without a line are not learnt from.
        kind: "ce": one label column, each scan in the class that it names. "bce": columns of 0 and 1.

    Raises:
        ClassTableError: naming the file and the line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClassTableError(f"{path} cannot be read ({error}); give a CSV file case,label[,label...]") from error
    width = len(rows[0]) if rows else 0
    if width < 2 or (kind == "ce" and width != 2):
        wanted = "case,label" if kind == "ce" else "case,label[,label...]"
        raise ClassTableError(f"{path} has {width} columns, wanted {wanted}; several labels a scan need --loss bce")
    heading, *lines = ([cell.strip() for cell in row] for row in rows)
    known, texts = set(cases), dict[str, list[str]]()
    for number, (case, *labels) in enumerate(lines, start=2):
        if len(labels) != width - 1 or (kind == "bce" and not set(labels) <= {"0", "1"}):
            raise ClassTableError(f"{path}, line {number}: {width - 1} labels{' 0 or 1' * (kind == 'bce')} wanted")
        if case in texts:
            raise ClassTableError(f"{path}, line {number}: {case} has a line already")
        if case in known:
            texts[case] = labels
    if not texts:
        raise ClassTableError(f"{path} names none of the {len(known)} cases, such as {min(known, default='none')}")
    if kind == "bce":
        vectors = {case: np.array(labels, np.float32) for case, labels in texts.items()}
        return ClassTable(names=tuple(heading[1:]), targets=vectors)
    names = tuple(sorted({labels[0] for labels in texts.values()}))
    if len(names) < 2:
        raise ClassTableError(f"{path} has one class, {names[0]}: at least two are needed")
    return ClassTable(
        names=names, targets={case: np.array([names.index(labels[0])], np.float32) for case, labels in texts.items()}
    )


@dataclass(frozen=True, kw_only=True)
class ClassSource:
    """A PatchSource of scans without label maps whose arrays are followed by the scan's target."""

    patches: PatchSource
    targets: tuple[np.ndarray, ...]

    def at(self, global_step: int) -> ClassSource:
        """The same source for a pipeline that begins at ``global_step``."""
        return replace(self, patches=self.patches.at(global_step))

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        patches = self.patches
        group = info.idx_in_batch // patches.run
        case = patches.sampler.case_index(patches.first_step + info.iteration, group)
        return (*patches(info), self.targets[case])
