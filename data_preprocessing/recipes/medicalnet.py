"""MedicalNet's preprocessing (Chen et al. 2019, arXiv:1904.00625, and its published settings).

For training, the border is dropped and a box around the target is drawn; every scan is then resized to
one size, nearest voxel, and standardised by its voxels above 0. Scans to be predicted are resized whole.
Axes are (D, H, W) of scans read depth first, see volume.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import Box
from cases.grid import nearest_places
from cases.plan import Normalization, Plan
from data_preprocessing.crop import crop, nonzero_box

INPUT_SIZE = (56, 448, 448)
FAR = 2.0  # how much shorter and coarser than the others an axis is that must be the depth


def as_published(plan: Plan, shapes: Sequence[Sequence[int]], spacings_mm: Sequence[Sequence[float]]) -> Plan:
    """A plan found from scans as that of this recipe: no constants, the median voxel after the resizing.

    Args:
        plan: with the patch size that scans are to be resized to.
        shapes: (D, H, W) of each scan, read depth first.
        spacings_mm: likewise.

    Raises:
        PlanError: for a 2D plan, or one with ``ohe``.
    """
    voxels = np.array(shapes) * np.array(spacings_mm) / np.array(plan.patch_size)
    d, h, w = np.median(voxels, axis=0).tolist()
    zscore = (Normalization(scheme="zscore"),) * len(plan.channels)
    return plan.with_(recipe="medicalnet", spacing_mm=(d, h, w), normalization=zscore, intensities_from="constants")


def looks_depth_last(shape: Sequence[int], spacing_mm: Sequence[float]) -> bool:
    """Whether a file's last axis is by far the shortest and coarsest, which is how slices lie behind one another."""
    return FAR * shape[-1] <= min(shape[:-1]) and spacing_mm[-1] >= FAR * max(spacing_mm[:-1])


def training_box(image_cdhw: np.ndarray, label: np.ndarray | None, rng: np.random.Generator) -> Box:
    """Without the border of the corner voxel's value; around the target, random room of up to half its side.

    Args:
        image_cdhw: of the scan.
        label: (1, D, H, W); None, or a label without a target, keeps all that is not border.
        rng: draws the room.
    """
    inside = nonzero_box(image_cdhw != image_cdhw[:, :1, :1, :1])
    if label is None or not (target := crop(label, inside)).any():
        return inside
    starts, ends = [], []
    for first, low, high, end in zip(inside[0], *nonzero_box(target), inside[1], strict=True):
        before, after = rng.integers(0, (high - low) // 2, size=2, endpoint=True).tolist()
        starts.append(first + max(0, low - before))
        ends.append(min(end, first + high + after))
    return (starts[0], starts[1], starts[2]), (ends[0], ends[1], ends[2])


def resize_nearest(array: np.ndarray, shape_dhw: Sequence[int]) -> np.ndarray:
    """Resize (..., D, H, W), the first and last voxels' centres staying where they are: SciPy's zoom, order 0."""
    for axis, new in zip((-3, -2, -1), shape_dhw, strict=True):
        array = array.take(nearest_places(array.shape[axis], new, corners=True), axis=axis)
    return array


def standardise(channel_dhw: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """By mean and deviation of the voxels above 0; voxels of 0 become standard normal noise.

    Returns:
        float32 (raw - shift) / scale, shift and scale; 0 and 1 for a channel without voxels above 0.
    """
    above = channel_dhw[channel_dhw > 0]
    shift = float(above.mean(dtype=np.float64)) if len(above) else 0.0
    scale = (float(above.std(dtype=np.float64)) if len(above) else 1.0) or 1.0
    out = (channel_dhw - np.float32(shift)) / np.float32(scale)
    empty = channel_dhw == 0
    out[empty] = rng.standard_normal(int(empty.sum()), dtype=np.float32)
    return out.astype(np.float32, copy=False), shift, scale
