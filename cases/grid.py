"""Where the voxels of a resized axis lie among the old ones.

Two rules are in use. Half-voxel: both axes span the same extent, as every resampling by spacing wants it.
Corner-aligned: the first and the last voxels' centres stay where they are, as SciPy's ``zoom`` and with it
MedicalNet resize.
"""

from __future__ import annotations

import numpy as np


def voxel_places(old: int, new: int, *, corners: bool = False) -> np.ndarray:
    """Centres of the new voxels in units of old ones, 0 the first old centre: float64 (new,).

    Under the half-voxel rule they may lie up to half a voxel outside.

    Args:
        old, new: voxels along the axis.
        corners: corner-aligned instead.
    """
    steps = np.arange(new, dtype=np.float64)
    return steps * ((old - 1) / max(new - 1, 1)) if corners else (steps + 0.5) * (old / new) - 0.5


def nearest_places(old: int, new: int, *, corners: bool = False) -> np.ndarray:
    """For each new voxel the old one whose centre is nearest, of two the later: intp (new,), to index with."""
    return np.clip(np.floor(voxel_places(old, new, corners=corners) + 0.5), 0, old - 1).astype(np.intp)
