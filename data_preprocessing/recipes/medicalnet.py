"""MedicalNet's preprocessing (Chen et al. 2019, arXiv:1904.00625, and its published settings).

For training, the border is dropped and a box around the target is drawn; every scan is then resized to
one size, nearest voxel, and standardised by its voxels above 0. Scans to be predicted are resized whole.
Axes are (D, H, W) of scans read depth first, see cases/volumes/geometry.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cases.case import Box, Intensity
from cases.grid import nearest_places
from cases.plan import Normalization, Plan
from data_preprocessing.crop import crop, nonzero_box
from data_preprocessing.normalizations import stored_range
from data_preprocessing.recipes.recipe import PreparedCase, RawScan, Recipe, finished

if TYPE_CHECKING:
    from data_preprocessing.planning.fingerprint import Facts

INPUT_SIZE = (56, 448, 448)
FAR = 2.0  # how much shorter and coarser than the others an axis is that must be the depth


class MedicalNet(Recipe):
    """Every stored case has the patch's size. The case's name is the seed."""

    depth_first = True

    def faults(
        self,
        *,
        dim: int,
        ohe: bool,
        normalization: Sequence[str] | None = None,
        spacing: Sequence[float] | None = None,
        resample: bool = True,
        crop: bool = True,
    ) -> list[str]:
        """See :class:`Recipe`."""
        faults = [] if dim == 3 and not ohe else ["recipe medicalnet is for --dim 3 without --ohe"]
        faults += ["recipe medicalnet has its own normalisation"] * (normalization is not None)
        own_grid = spacing is not None or not resample or not crop
        return faults + ["recipe medicalnet crops and resizes its own way"] * own_grid

    def planned(self, plan: Plan, facts: Sequence[Facts], patch_size: tuple[int, ...] | None) -> tuple[Plan, list[str]]:
        """See :class:`Recipe`: no constants; the voxel size is the median after the resizing."""
        size = patch_size or INPUT_SIZE
        scans = [(entry.shape_cropped[::-1], entry.spacing_mm[::-1]) for entry in facts]
        voxels = np.array([np.array(shape) * spacing for shape, spacing in scans]) / np.array(size)
        d, h, w = np.median(voxels, axis=0).tolist()
        zscore = (Normalization(scheme="zscore"),) * len(plan.channels)
        plan = plan.with_(
            patch_size=size,
            recipe="medicalnet",
            spacing_mm=(d, h, w),
            normalization=zscore,
            intensities_from="constants",
        )
        return plan, _depth_warnings(scans)

    def describe(self, plan: Plan) -> str:
        """See :class:`Recipe`."""
        patch = " x ".join(map(str, plan.patch_size))
        return f"recipe medicalnet, scans (depth first) resized to {patch}, {plan.n_class} classes"

    def prepare(self, scan: RawScan, plan: Plan, *, train: bool) -> PreparedCase:
        """See :class:`Recipe`; cut to a box drawn around the target for training."""
        rng = np.random.default_rng(zlib.crc32(scan.case.encode()))
        whole: Box = ((0, 0, 0), scan.geometry.shape_dhw)
        box = training_box(scan.image_cdhw, scan.label, rng) if train else whole
        d, h, w = plan.patch_size
        resized = resize_nearest(crop(scan.image_cdhw, box), (d, h, w))
        stored = np.empty(resized.shape, np.float32)
        intensity = []
        for channel, target in zip(resized, stored, strict=True):
            target[...], shift, scale = standardise(channel, rng)
            low, high = stored_range(target, keeps_zero=True)
            intensity.append(Intensity(shift=shift, scale=scale, low=low, high=high))
        sides = zip(*box, scan.geometry.spacing_mm, plan.patch_size, strict=True)
        z, y, x = ((end - start) * length / side for start, end, length, side in sides)
        return finished(
            scan,
            plan,
            stored,
            partial(resize_nearest, shape_dhw=(d, h, w)),
            crop_box=box,
            shape_resampled=(d, h, w),
            pad_before=(0, 0, 0),
            spacing_mm=(z, y, x),
            intensity=intensity,
            corners=True,
        )


def _depth_warnings(scans: Sequence[tuple[Sequence[int], Sequence[float]]]) -> list[str]:
    """A warning where files, (shape, spacing) read depth first, look as if they held the depth last."""
    turned = [scan for scan in scans if looks_depth_last(*scan)]
    if not turned:
        return []
    shape, spacing_mm = (" x ".join(f"{value:g}" for value in values) for values in turned[0])
    return [
        f"{len(turned)} of {len(scans)} scans look as if their depth came last, such as {shape} voxels of "
        f"{spacing_mm} mm, where --recipe medicalnet takes the first axis for the depth: store them depth first, "
        "or leave --recipe out (the default reads the depth last)"
    ]


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
