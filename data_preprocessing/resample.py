"""Resizing as one small banded matrix an axis.

Spline interpolation on a regular grid is linear and separable, so resizing an axis from n to m voxels
is an (m, n) matrix; for cubic splines its rows decay by a factor of 3.7 a voxel, and 24 taps keep
an error of 3e-6. The results are those of ``skimage.transform.resize(order=3, mode="edge",
anti_aliasing=False, clip=True)`` for images and, for labels, of the same with order 1 on each class's
mask, kept where it is at least 0.5, higher labels winning: the recipe of NVIDIA's nnU-Net.

Where voxels are three times longer along one axis than another, that axis carries no more than the
nearest slice: images and labels are resized slice by slice in-plane, then slices are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numba
import numpy as np
from scipy import ndimage

from cases.grid import nearest_places, voxel_places
from cases.plan import is_anisotropic

TAPS = 24
BORDER = 12  # voxels of the edge's value before the first and after the last, as SciPy pads
BLOCK = 1024  # columns that pass through one axis together: n * BLOCK floats stay in the cache
ROUNDING = 1e-3  # of a voxel: spacings are float32 in files, and 511.9999 voxels are 512

Order = Literal[1, 3]


def resampled_shape(
    shape_dhw: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, int, int]:
    """Whole voxels of the target size that fit into the scan, at least one along each axis."""
    ratios = np.array(spacing_mm, np.float64) / np.array(target_mm, np.float64)
    d, h, w = np.maximum(1, np.floor(ratios * np.array(shape_dhw) + ROUNDING)).astype(int).tolist()
    return d, h, w


def anisotropic_axis(spacing_mm: Sequence[float], target_mm: Sequence[float]) -> int | None:
    """The axis to be resized by nearest slice, or None: the coarsest of the scan, else of the target."""
    for lengths in (spacing_mm, target_mm):
        if is_anisotropic(lengths):
            return int(np.argmax(lengths))
    return None


def resample_image(
    image_cdhw: np.ndarray, shape_dhw: Sequence[int], *, anisotropic_axis: int | None = None, order: Order = 3
) -> np.ndarray:
    """Resize each channel, kept within the range of its input.

    Args:
        image_cdhw: finite numbers; computed in float32.
        shape_dhw: the new sides.
        anisotropic_axis: 0, 1 or 2 for D, H, W: resize its slices one by one, then take the nearest.
        order: of the spline; 3 cubic, 1 linear (scores on their way back).

    Returns:
        float32, (C, *shape_dhw); a new array, or ``image_cdhw`` itself where no side changes.
    """
    image = np.ascontiguousarray(image_cdhw, np.float32)
    shape = tuple(int(side) for side in shape_dhw)
    if image.shape[1:] == shape:
        return image
    out = np.empty((len(image), *shape), np.float32)
    for channel, result in zip(image, out, strict=True):
        if anisotropic_axis is None:
            result[...] = _resize(channel, shape, order)
        else:
            _resize_slices(channel, result, anisotropic_axis, order)
    return out


def resample_label(
    label_1dhw: np.ndarray, shape_dhw: Sequence[int], *, anisotropic_axis: int | None = None
) -> np.ndarray:
    """Resize a label map: the highest class whose linearly resized mask reaches 0.5, else 0.

    All classes in one pass: the eight corner weights are summed by label.

    Args:
        label_1dhw: uint8, (1, D, H, W).
        shape_dhw: the new sides.
        anisotropic_axis: 0, 1 or 2 for D, H, W: resize its slices one by one, then take the nearest.

    Returns:
        uint8, (1, *shape_dhw); a new array, or the input itself where no side changes.
    """
    source = np.ascontiguousarray(label_1dhw[0], np.uint8)
    shape = tuple(int(side) for side in shape_dhw)
    if source.shape == shape:
        return label_1dhw
    within = list(shape)
    if anisotropic_axis is not None:
        chosen = nearest_places(source.shape[anisotropic_axis], shape[anisotropic_axis])
        used, repeat = np.unique(chosen, return_inverse=True)
        source = np.ascontiguousarray(source.take(used, axis=anisotropic_axis))
        within[anisotropic_axis] = len(used)
    if source.shape != tuple(within):
        out = np.empty(within, np.uint8)
        low, high, share = zip(*map(_linear, source.shape, within), strict=True)
        _vote(source, low, high, share, out)
        source = out
    if anisotropic_axis is not None:
        source = source.take(repeat, axis=anisotropic_axis)
    return np.ascontiguousarray(source)[None]


@lru_cache(maxsize=64)
def axis_matrix(n: int, m: int, order: Order = 3) -> tuple[np.ndarray, np.ndarray]:
    """Row i of the (m, n) matrix that resizes an axis, cut to the taps that matter.

    Returns:
        first: int64, (m,), the first column kept of each row.
        weights: float32, (m, taps), taps being at most ``TAPS``.
    """
    if order == 1:
        low, high, fraction = _linear(n, m)
        first = np.minimum(low, max(0, n - 2))
        pairs = np.zeros((m, min(2, n)))
        np.add.at(pairs, (np.arange(m), low - first), 1 - fraction)
        np.add.at(pairs, (np.arange(m), high - first), fraction)
        return first, pairs.astype(np.float32)
    places = voxel_places(n, m) + BORDER  # never clamped: the border pads them
    padded = np.pad(np.eye(n), ((BORDER, BORDER), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(padded, order=3, axis=0, mode="mirror")
    base = np.floor(places).astype(int)
    t = places - base
    splines = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    dense = sum(s[:, None] / 6 * coefficients[base - 1 + k] for k, s in enumerate(splines))
    taps = min(TAPS, n)
    first = np.clip(base - BORDER - taps // 2 + 1, 0, n - taps)
    return first, np.take_along_axis(dense, first[:, None] + np.arange(taps), axis=1).astype(np.float32)


def _linear(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour and the upper one's weight, for m places along n voxels.

    At the border both neighbours are the edge and share its weight, as SciPy does it: its rounding
    decides whether a half is reached.
    """
    places = voxel_places(n, m)
    base = np.floor(places).astype(np.int64)
    fraction = places - base
    low = np.clip(base, 0, n - 1)
    return low, np.where(fraction > 0, np.clip(base + 1, 0, n - 1), low), fraction


def _resize(volume: np.ndarray, shape: Sequence[int], order: Order) -> np.ndarray:
    """All axes of a contiguous float32 volume, those that shrink most first; clipped to its range."""
    out = volume
    for axis in sorted(range(volume.ndim), key=lambda a: shape[a] / volume.shape[a]):
        n, m = volume.shape[axis], shape[axis]
        if n == m:
            continue
        first, weights = axis_matrix(n, m, order)
        lead, rest = int(np.prod(out.shape[:axis])), int(np.prod(out.shape[axis + 1 :]))
        result = np.empty((*out.shape[:axis], m, *out.shape[axis + 1 :]), np.float32)
        kernel = _along_rows if rest == 1 else _along_columns
        kernel(out.reshape(lead, n, rest), first, weights, result.reshape(lead, m, rest))
        out = result
    if order == 3 and out is not volume:  # a linear spline never leaves the range
        np.clip(out, volume.min(), volume.max(), out=out)
    return out


def _resize_slices(volume: np.ndarray, out: np.ndarray, axis: int, order: Order) -> None:
    """Each slice across ``axis`` by itself, clipped to its own range, then the nearest slice."""
    slices, results = np.moveaxis(volume, axis, 0), np.moveaxis(out, axis, 0)
    chosen = nearest_places(len(slices), len(results))
    for source in np.unique(chosen):
        results[chosen == source] = _resize(np.ascontiguousarray(slices[source]), results.shape[1:], order)


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _along_columns(x: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """out[a, i, :] = sum over t of weights[i, t] * x[a, first[i] + t, :], a block of columns at a time."""
    lead, m, rest = out.shape
    taps = weights.shape[1]
    for a in range(lead):
        for start in range(0, rest, BLOCK):
            stop = min(start + BLOCK, rest)
            for i in range(m):
                target = out[a, i, start:stop]
                target[:] = 0
                for t in range(taps):
                    weight, row = weights[i, t], x[a, first[i] + t, start:stop]
                    for b in range(stop - start):
                        target[b] += weight * row[b]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _along_rows(x: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """The same for the last axis: out[a, i, 0] is a dot product within row a."""
    lead, m, _ = out.shape
    taps = weights.shape[1]
    for a in range(lead):
        for i in range(m):
            start, total = first[i], np.float32(0)
            for t in range(taps):
                total += weights[i, t] * x[a, start + t, 0]
            out[a, i, 0] = total


@numba.njit(cache=True, nogil=True)
def _vote(
    label: np.ndarray,
    low: tuple[np.ndarray, ...],
    high: tuple[np.ndarray, ...],
    share: tuple[np.ndarray, ...],
    out: np.ndarray,
) -> None:
    """The highest label whose corner weights sum to 0.5 or more, voxel by voxel; sums in float64."""
    corners = np.empty(8, np.uint8)
    shares = np.empty(8, np.float64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            d, h = share[0][i], share[1][j]
            row_shares = ((1 - d) * (1 - h), (1 - d) * h, d * (1 - h), d * h)
            above, below = label[low[0][i]], label[high[0][i]]
            rows = (above[low[1][j]], above[high[1][j]], below[low[1][j]], below[high[1][j]])
            for k in range(out.shape[2]):
                left, right = low[2][k], high[2][k]
                for c in range(4):
                    corners[2 * c], corners[2 * c + 1] = rows[c][left], rows[c][right]
                same = True
                for c in range(1, 8):
                    same &= corners[c] == corners[0]
                if same:
                    out[i, j, k] = corners[0]
                    continue
                w = share[2][k]
                for c in range(4):
                    shares[2 * c], shares[2 * c + 1] = row_shares[c] * (1 - w), row_shares[c] * w
                best = np.uint8(0)
                for c in range(8):
                    if corners[c] <= best:
                        continue
                    total = 0.0
                    for other in range(8):
                        if corners[other] == corners[c]:
                            total += shares[other]
                    if total >= 0.5:
                        best = corners[c]
                out[i, j, k] = best
