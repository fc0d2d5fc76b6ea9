"""Low resolution, by channel: sampled on a grid of zoom times the sides, nearest, and back again, linearly.

As nnU-Net's, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z. A side of n voxels becomes
max(1, floor(n * zoom + 0.5)); both grids cover the same space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numba as nb
import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dmath

from cases.settings import Settings, probability, setting
from data_loading.augmentation.effect import IntensityEffect, Node, positive_range
from data_loading.augmentation.graph import by_channel
from data_loading.errors import LoaderError


@dataclass(frozen=True, kw_only=True)
class LowResolutionSettings(Settings):
    """Augmentation: simulated low resolution."""

    error = LoaderError

    low_resolution: float = setting(0.25, "probability that a patch loses resolution", check=probability)
    low_resolution_zoom: tuple[float, float] = setting(
        (0.5, 1.0), "sides of the coarse grid, relative to the patch", check=positive_range
    )
    low_resolution_channel: float = setting(0.5, "probability of each channel of such a patch", check=probability)

    def faults(self) -> list[str]:
        zoom = self.low_resolution_zoom
        return [f"--low_resolution_zoom {zoom[0]} {zoom[1]} exceeds 1"] if zoom[1] > 1 else []


class LowResolution(IntensityEffect[LowResolutionSettings]):
    """Parameters: the zoom of each channel; 0 leaves it alone."""

    settings = LowResolutionSettings
    chance = "low_resolution"

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        given = self.given
        if rng.random() >= given.low_resolution:
            return None
        coarse = rng.random(channels) < given.low_resolution_channel
        return rng.uniform(*given.low_resolution_zoom, channels) * coarse

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        for channel, zoom in zip(image_cdhw, parameters, strict=True):
            if zoom > 0:
                low_resolution(channel, float(zoom), in_plane)

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        return by_channel(image, parameters, shape[0], 1, partial(_dali_low_resolution, shape[1:], in_plane))


def _dali_low_resolution(sides: Sequence[int], in_plane: bool, channel: Node, zoom: Node) -> Node:
    fixed = np.array([in_plane and len(sides) == 3, *[False] * (len(sides) - 1)])
    moving, still = (np.where(mask, sides, 0).astype(np.float32) for mask in (~fixed, fixed))
    size = dmath.floor(types.Constant(moving) * zoom[0] + types.Constant(still) + 0.5)
    size = dmath.max(size, 1.0)
    coarse: Node = fn.resize(channel, size=size, interp_type=types.DALIInterpType.INTERP_NN, antialias=False)
    return fn.resize(coarse, size=list(sides), interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=False)


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
