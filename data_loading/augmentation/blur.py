"""Gaussian blur, by channel: out = image * G(sigma_d) * G(sigma_h) * G(sigma_w), each sigma drawn on its own.

As nnU-Net's, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z. Windows reach 3 sigma; borders mirror about their
last voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from nvidia.dali import fn

from cases.settings import Settings, probability, setting
from data_loading.augmentation.effect import IntensityEffect, Node, positive_range
from data_loading.augmentation.graph import by_channel
from data_loading.errors import LoaderError


@dataclass(frozen=True, kw_only=True)
class BlurSettings(Settings):
    """Augmentation: Gaussian blur."""

    error = LoaderError

    blur: float = setting(0.2, "probability that a patch is blurred", check=probability)
    blur_sigma: tuple[float, float] = setting(
        (0.5, 1.0), "standard deviation in voxels, for each channel and axis", check=positive_range
    )
    blur_channel: float = setting(0.5, "probability of each channel of a blurred patch", check=probability)


class Blur(IntensityEffect[BlurSettings]):
    """Parameters: sigma in voxels, (channels, axes); 0 leaves a channel alone."""

    settings = BlurSettings
    chance = "blur"

    def width(self, channels: int, axes: int) -> int:
        return channels * axes

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        given = self.given
        if rng.random() >= given.blur:
            return None
        blurred = rng.random(channels) < given.blur_channel
        return (rng.uniform(*given.blur_sigma, (channels, axes)) * blurred[:, None]).reshape(-1)

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        for channel, sigma in zip(image_cdhw, parameters.reshape(len(image_cdhw), -1), strict=True):
            if sigma[0] > 0:
                gaussian_blur(channel, sigma)

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        return by_channel(image, parameters, shape[0], len(shape) - 1, _dali_blur)


def _dali_blur(channel: Node, sigma: Node) -> Node:
    return fn.gaussian_blur(channel, sigma=sigma)


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
