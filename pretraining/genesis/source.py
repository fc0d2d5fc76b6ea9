"""What Models Genesis reads: patches of preprocessed cases, or the cubes of published files. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cases.plan import Normalization, Plan
from data_loading.errors import LoaderError
from data_loading.sources.reader import NOTHING, copy_box
from data_loading.sources.sampling import draw_start
from pretraining.genesis.cubes import CubeError, find_cubes, open_cubes, read_cube, to_unit
from pretraining.source import FolderScans

PATCHES_A_SCAN = 32  # of an epoch, as the published generator cuts cubes
DRAWS = 10  # places tried for a patch: nothing but padding or air teaches nothing, and its gradients explode


class CasePatches(FolderScans):
    """Patches straight from the memory maps of preprocessed cases, CT or MRI, labelled or not.

    Stored intensities are mapped to [0, 1] by the range that each case's json records.
    """

    visits = PATCHES_A_SCAN

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        """(C, D, H, W) float32 of one scan, at a random place that is not all alike, if one is found."""
        case = self._reader.open(self.names[index])
        for _ in range(DRAWS):
            start = draw_start(rng, case.shape_dhw, patch_dhw, NOTHING, 0.0)
            patch = to_unit(copy_box(case.image_cdhw, start, patch_dhw), self._infos[index].intensity)
            if patch.max() > patch.min():
                break
        return patch


class CubePatches:
    """Cubes of published files ``bat_<scale>_s_<rows>x<cols>x<deps>_<fold>.npy``, each one whole.

    Attributes:
        size_dhw: of a cube.

    Raises:
        CubeError: for folds without a file, files that are none, and cubes of several sizes.
    """

    visits = 1
    classes: np.ndarray | None = None

    def __init__(self, folder: Path, folds: Sequence[int]) -> None:
        self._paths = find_cubes(folder, folds)
        self.names = tuple(path.name for path in self._paths)
        shapes = [open_cubes(path).shape for path in self._paths]
        if len({shape[1:] for shape in shapes}) != 1:
            raise CubeError(f"{folder} needs cubes of one size in folds {tuple(folds)}, has {shapes}")
        rows, cols, deps = shapes[0][1:]
        self.size_dhw = (deps, cols, rows)
        self._ends = np.cumsum([shape[0] for shape in shapes])
        self._open: dict[Path, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a memory map would travel as a copy of its file

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        file = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[file]
        if path not in self._open:
            self._open[path] = open_cubes(path)
        try:
            return read_cube(self._open[path], index - int(self._ends[file - 1] if file else 0))
        except CubeError as error:
            raise LoaderError(f"{path}: {error}") from error


def cube_plan(folder: Path, size_dhw: tuple[int, int, int]) -> Plan:
    """The plan of a folder of cubes: one CT channel, HU -1000 to 1000 as [0, 1], no labels."""
    unit = Normalization(scheme="ct", lower=-1000.0, upper=1000.0, mean=-1000.0, std=2000.0)
    return Plan(
        name=folder.name,
        dataset=folder.name,
        dim=3,
        channels=("CT",),
        labels=("background",),
        spacing_mm=(1.0, 1.0, 1.0),  # cubes do not tell theirs
        patch_size=size_dhw,
        normalization=(unit,),
    )
