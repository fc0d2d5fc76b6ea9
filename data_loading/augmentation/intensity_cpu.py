"""nnU-Net's intensity augmentations on the CPU, compiled; ``augmentation.augment_intensity`` is their DALI form.

Both compute the same, which the tests hold. Here a channel is changed in place, in passes that the compiler
vectorises; scratch space is a channel or less.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from data_loading.augmentation.vector_math import exp2, log2
from data_loading.sources.sampling import Intensity

TINY = np.float32(1e-7)


def augment_intensity(image_cdhw: np.ndarray, intensity: Intensity, in_plane: bool) -> None:
    """Blur, brightness, contrast, low resolution and both gammas, in nnU-Net's order, in place.

    Args:
        image_cdhw: C-contiguous float32; D is 1 for a 2D patch.
        intensity: what was drawn for each channel.
        in_plane: low resolution leaves D alone.
    """
    for c, channel in enumerate(image_cdhw):
        if intensity.blur[c, 0] > 0:
            gaussian_blur(channel, intensity.blur[c])
        if intensity.brightness[c] > 0:
            channel *= intensity.brightness[c]
        if intensity.contrast[c] > 0:
            _contrast(channel.reshape(-1), intensity.contrast[c])
        if intensity.zoom[c] > 0:
            low_resolution(channel, float(intensity.zoom[c]), in_plane)
        if intensity.gamma_inverted[c] > 0:
            _gamma(channel.reshape(-1), intensity.gamma_inverted[c], np.float32(-1))
        if intensity.gamma[c] > 0:
            _gamma(channel.reshape(-1), intensity.gamma[c], np.float32(1))


def gaussian_blur(channel_dhw: np.ndarray, sigma: np.ndarray) -> None:
    """Blur in place.

    Args:
        sigma: voxels, for each of the last axes; windows reach 3 sigma, borders mirror about their last voxel.
    """
    still = np.zeros(3 - len(sigma), sigma.dtype)
    taps = [gaussian_taps(float(s)) for s in (*still, *sigma)]
    _blur(channel_dhw, *taps)


def gaussian_taps(sigma: float) -> np.ndarray:
    """The window of a Gaussian, (2 * radius + 1,) float32, its sum 1."""
    if sigma == 0:
        return np.ones(1, np.float32)
    radius = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def low_resolution(channel_dhw: np.ndarray, zoom: float, in_plane: bool) -> None:
    """Sample on a grid of ``zoom`` times the sides, nearest, and back again, linearly; in place."""
    sides = channel_dhw.shape
    coarse = [max(1, math.floor(n * zoom + 0.5)) for n in sides]
    if in_plane:
        coarse[0] = sides[0]
    grids = list(zip(coarse, sides, strict=True))
    nearest = tuple(np.floor((np.arange(n) + 0.5) * (side / n)).astype(np.int64) for n, side in grids)
    below, above, weight = zip(*(linear_places(n, side) for n, side in grids), strict=True)
    _low_resolution(channel_dhw, nearest, below, above, weight)


def linear_places(coarse: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For ``side`` voxels over a grid of ``coarse``: the grid point below, the one above, the weight of the latter."""
    place = np.clip((np.arange(side) + 0.5) * (coarse / side) - 0.5, 0, coarse - 1)
    below = np.floor(place).astype(np.int64)
    return below, np.minimum(below + 1, coarse - 1), (place - below).astype(np.float32)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _range_and_mean(flat):  # type: ignore[no-untyped-def]
    low = high = flat[0]
    total = 0.0
    for value in flat:
        low = min(low, value)
        high = max(high, value)
        total += value
    return low, high, np.float32(total / flat.size)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _deviation(flat, mean):  # type: ignore[no-untyped-def]
    total = 0.0
    for value in flat:
        total += (value - mean) * (value - mean)
    return np.float32(math.sqrt(total / flat.size))


@nb.njit(cache=True, nogil=True, fastmath=True)
def _contrast(flat, factor):  # type: ignore[no-untyped-def]
    low, high, mean = _range_and_mean(flat)
    for i in range(flat.size):
        flat[i] = min(max((flat[i] - mean) * factor + mean, low), high)


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gamma(flat, exponent, sign):  # type: ignore[no-untyped-def]
    """sign -1 works on the inverted image: its least value is the image's largest."""
    low, high, mean = _range_and_mean(flat)
    deviation = _deviation(flat, mean)
    least = low if sign > 0 else high
    scale = 1 / max(high - low, TINY)
    total = 0.0
    for i in range(flat.size):
        flat[i] = exp2(exponent * log2(abs(flat[i] - least) * scale))
        total += flat[i]
    curved_mean = np.float32(total / flat.size)
    stretch = sign * deviation / max(_deviation(flat, curved_mean), TINY)
    for i in range(flat.size):
        flat[i] = (flat[i] - curved_mean) * stretch + mean


@nb.njit(cache=True, nogil=True, inline="always")
def _mirrored(i, n):  # type: ignore[no-untyped-def]
    """An index beyond a border of ``n`` voxels, mirrored about the border's voxel."""
    if n == 1:
        return 0
    i = abs(i) % (2 * n - 2)
    return min(i, 2 * n - 2 - i)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _blur(volume, taps_d, taps_h, taps_w):  # type: ignore[no-untyped-def]
    depth, height, width = volume.shape
    blurred = np.empty_like(volume)
    plane = np.empty((height, width), np.float32)
    reach = taps_w.size // 2
    line = np.empty(width + 2 * reach, np.float32)
    for z in range(depth):
        for y in range(height):
            line[reach : reach + width] = volume[z, y]
            for x in range(reach):
                line[x] = volume[z, y, _mirrored(x - reach, width)]
                line[reach + width + x] = volume[z, y, _mirrored(width + x, width)]
            _weigh(plane[y], line, taps_w)
        _blur_rows(plane, taps_h, blurred[z])
    _blur_rows(blurred.reshape(depth, -1), taps_d, volume.reshape(depth, -1))


@nb.njit(cache=True, nogil=True, fastmath=True)
def _weigh(out, line, taps):  # type: ignore[no-untyped-def]
    out[:] = 0
    for k in range(taps.size):
        for x in range(out.size):
            out[x] += taps[k] * line[x + k]


@nb.njit(cache=True, nogil=True, fastmath=True)
def _blur_rows(source, taps, out):  # type: ignore[no-untyped-def]
    """Blur a (rows, n) array along its first axis."""
    rows, reach = source.shape[0], taps.size // 2
    for row in range(rows):
        out[row] = 0
        for k in range(taps.size):
            other = source[_mirrored(row + k - reach, rows)]
            for x in range(other.size):
                out[row, x] += taps[k] * other[x]


@nb.njit(cache=True, nogil=True, fastmath=True)
def _low_resolution(volume, nearest, below, above, weight):  # type: ignore[no-untyped-def]
    """Each argument but the first is a triple of arrays, one an axis."""
    nearest_d, nearest_h, nearest_w = nearest
    below_d, below_h, below_w = below
    above_d, above_h, above_w = above
    weight_d, weight_h, weight_w = weight
    depth, height, width = volume.shape
    planes = np.empty((nearest_d.size, height, width), np.float32)
    lines = np.empty((nearest_h.size, width), np.float32)
    line = np.empty(nearest_w.size, np.float32)
    for z in range(nearest_d.size):
        for y in range(nearest_h.size):
            source = volume[nearest_d[z], nearest_h[y]]
            for x in range(nearest_w.size):
                line[x] = source[nearest_w[x]]
            for x in range(width):
                lines[y, x] = line[below_w[x]] + weight_w[x] * (line[above_w[x]] - line[below_w[x]])
        for y in range(height):
            _blend(planes[z, y], lines[below_h[y]], lines[above_h[y]], weight_h[y])
    for z in range(depth):
        _blend(volume[z].reshape(-1), planes[below_d[z]].reshape(-1), planes[above_d[z]].reshape(-1), weight_d[z])


@nb.njit(cache=True, nogil=True, fastmath=True)
def _blend(out, first, second, weight):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        out[i] = first[i] + weight * (second[i] - first[i])
