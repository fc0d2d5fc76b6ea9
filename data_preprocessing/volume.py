"""Image files to (C, D, H, W) arrays with their geometry, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a scan's voxels lie.

    Attributes:
        shape_dhw: voxels; D is the last axis of the NIfTI file.
        spacing_mm: (D, H, W).
        affine: 4x4, from the file's voxel indices (x, y, z) = (w, h, d) to millimetres, as NIfTI stores it.
    """

    shape_dhw: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Geometry:
        return cls(
            shape_dhw=tuple(values["shape_dhw"]),
            spacing_mm=tuple(values["spacing_mm"]),
            affine=tuple(tuple(row) for row in values["affine"]),
        )

    @property
    def affine_array(self) -> np.ndarray:
        return np.array(self.affine, dtype=np.float64)
