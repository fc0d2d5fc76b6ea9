"""Where a scan's voxels lie, and when two grids are the same.

Voxels are never reoriented: D, H, W are the file's third, second and first index. MedicalNet's files hold
the depth first: :func:`turn_axes` and :meth:`Geometry.turned` make arrays of them whose D, H, W are the
first, second and third index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MISPLACED = 0.1  # of a voxel: corners of two grids farther apart than this are different grids
SPACING_MM = (1e-3, 1e3)  # what a voxel of a scan can measure
FARTHEST_MM = 1e6  # from the origin; beyond, float32 places no voxel
APART = 0.01  # of a length: what headers that tell it twice may differ by, having rounded it
FLAT = 1e-3  # volume of a voxel whose sides are 1, below which its axes lie in a plane


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a scan's voxels lie.

    Attributes:
        shape_dhw: voxels; D is the last axis of the NIfTI file.
        spacing_mm: (D, H, W).
        affine: 4x4, from the file's voxel indices (x, y, z) = (w, h, d) to millimetres, as NIfTI stores it.
        depth_first: D is the file's first index x, and W its last.
    """

    shape_dhw: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...]
    depth_first: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Geometry:
        return cls(
            shape_dhw=tuple(values["shape_dhw"]),
            spacing_mm=tuple(values["spacing_mm"]),
            affine=tuple(tuple(row) for row in values["affine"]),
            depth_first=values.get("depth_first", False),
        )

    @classmethod
    def of(cls, shape_dhw: Sequence[int], spacing_mm: Sequence[float], affine: np.ndarray) -> Geometry:
        """From any sequences of numbers."""
        d, h, w = (int(side) for side in shape_dhw)
        z, y, x = (float(length) for length in spacing_mm)
        rows = tuple((float(a), float(b), float(c), float(t)) for a, b, c, t in np.asarray(affine))
        return cls(shape_dhw=(d, h, w), spacing_mm=(z, y, x), affine=rows)

    @property
    def affine_array(self) -> np.ndarray:
        return np.array(self.affine, dtype=np.float64)

    @property
    def corners_mm(self) -> np.ndarray:
        """The eight corner voxels' places, (8, 3), millimetres."""
        xyz = self.shape_dhw if self.depth_first else self.shape_dhw[::-1]
        ends = [(0, side - 1) for side in xyz]
        indices = np.array([[*xyz, 1] for xyz in np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T])
        return (indices @ self.affine_array.T)[:, :3]

    @property
    def fault(self) -> str | None:
        """What makes it no grid of a scan, in words, or None."""
        spacing = np.array(self.spacing_mm)
        low, high = SPACING_MM
        if not all(low <= length <= high for length in self.spacing_mm):  # also catches NaN
            return f"voxel size {_mm(spacing)} mm (D, H, W) is not within {low:g} to {high:g}"
        affine = self.affine_array
        if not np.abs(affine).max() <= FARTHEST_MM:  # also catches NaN
            return f"its affine {affine[:3].tolist()} is not finite, or places it beyond {FARTHEST_MM / 1e6:g} km"
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        lengths = lengths if self.depth_first else lengths[::-1]
        if not agree(spacing, lengths):
            return f"voxel size {_mm(spacing)} mm (D, H, W), but {_mm(lengths)} mm by its affine"
        if abs(np.linalg.det(affine[:3, :3])) < FLAT * spacing.prod():
            return f"the axes of its affine {affine[:3, :3].tolist()} lie in a plane"
        return None

    def turned(self) -> Geometry:
        """Of the same file, read depth first (or, of a file read so, as usual)."""
        (d, h, w), (z, y, x) = self.shape_dhw, self.spacing_mm
        return replace(self, shape_dhw=(w, h, d), spacing_mm=(x, y, z), depth_first=not self.depth_first)

    def mismatch(self, other: Geometry) -> str | None:
        """What keeps another grid from being this one, in words, or None."""
        if self.shape_dhw != other.shape_dhw:
            return f"shapes {self.shape_dhw} and {other.shape_dhw} (D, H, W) differ"
        apart = float(np.abs(self.corners_mm - other.corners_mm).max())
        if apart > MISPLACED * min(self.spacing_mm):
            return f"affines differ: corners lie up to {apart:.3g} mm apart"
        return None


def agree(lengths: np.ndarray, others: np.ndarray) -> bool:
    """Whether lengths that a header tells twice are the same."""
    return bool((np.abs(lengths - others) <= APART * np.maximum(np.abs(lengths), np.abs(others))).all())


def _mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def turn_axes(array: np.ndarray) -> np.ndarray:
    """(..., D, H, W) to a contiguous (..., W, H, D), as :meth:`Geometry.turned` turns a grid."""
    return np.ascontiguousarray(np.swapaxes(array, -1, -3))
