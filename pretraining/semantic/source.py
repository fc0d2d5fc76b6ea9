"""What Semantic Genesis learns from: cubes of an index of patterns, or the published ones. NumPy and Numba alone.

Each is a ``pretraining.source.Patches`` with classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cases.case import CaseInfo, read_info
from data_loading.errors import LoaderError
from data_loading.sources.reader import CaseReader
from pretraining.genesis.cubes import CubeError, read_cube
from pretraining.semantic.files import open_published
from pretraining.semantic.patterns import PatternError, Patterns, cut


class PatternPatches:
    """Cubes of an index, each read from its place in a preprocessed case and resized; none is stored.

    Args:
        folder: of the preprocessed cases.
        patterns: the index; its cubes are ``patterns.cube_dhw``.
        rows: ``patterns.training`` or ``patterns.validation``.
        channels: of the cases.

    Raises:
        PatternError: without rows.
        CaseError: for a case that cannot be read.
    """

    visits = 1

    def __init__(self, folder: Path, patterns: Patterns, rows: np.ndarray, channels: int) -> None:
        if not len(rows):
            raise PatternError(f"the index of patterns has no cubes of this part for the scans in {folder}")
        self.names = tuple(patterns.cases[scan] for scan in np.unique(rows[:, 1]))
        self.classes: np.ndarray | None = rows[:, 0].astype(np.int64)
        self._rows, self._cases = rows, patterns.cases
        self._reader = CaseReader(folder, channels, labelled=False)
        self._infos: dict[str, CaseInfo] = {case: read_info(folder, case) for case in self.names}

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        """The cube of a row; nothing of it is random."""
        row = self._rows[index]
        case = self._cases[row[1]]
        return cut(self._reader.open(case).image_cdhw, self._infos[case], row, patch_dhw)


class PublishedPatterns:
    """Cubes in the authors' own files, ``train_data1_vwGen_ex_ref_fold<f>.npy`` and so on.

    Attributes:
        size_dhw: of a cube.
        n_class: classes in use.

    Args:
        part: "train" or "val".
        n_class: classes to use, the first ones (44 of the published 50); None: all.

    Raises:
        PatternError: for files that are missing or do not fit each other.
    """

    visits = 1

    def __init__(self, folder: Path, part: str, fold: int, n_class: int | None = None) -> None:
        self._place = (Path(folder), part, fold)
        self.names: tuple[str, ...] = (f"{folder} {part} {fold}",)
        cubes, labels = open_published(*self._place)
        ends = np.cumsum([len(file) for file in cubes])
        self._starts = np.concatenate([[0], ends[:-1]])
        rows, cols, deps = cubes[0].shape[2:]
        self.size_dhw = (deps, cols, rows)
        self._chosen = np.flatnonzero(labels < n_class) if n_class else np.arange(len(labels))
        self.classes: np.ndarray | None = labels[self._chosen]
        self.n_class = int(labels[self._chosen].max(initial=-1)) + 1
        self._cubes: list[np.ndarray] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cubes": []}  # a memory map would travel as a copy of its file

    def __len__(self) -> int:
        return len(self._chosen)

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        """The cube of a row, whole."""
        if not self._cubes:
            self._cubes = open_published(*self._place)[0]
        entry = int(self._chosen[index])
        file = int(np.searchsorted(self._starts, entry, side="right")) - 1
        try:
            return read_cube(self._cubes[file][:, 0], entry - int(self._starts[file]))
        except CubeError as error:
            raise LoaderError(f"{' '.join(map(str, self._place))}, file {file + 1}: {error}") from error
