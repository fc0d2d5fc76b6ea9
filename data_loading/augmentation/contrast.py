"""Contrast: out = clip((image - mean) * factor + mean, min, max), a factor for each channel.

The image keeps its range. As nnU-Net's, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from nvidia.dali import math as dmath

from cases.settings import Settings, probability, setting
from data_loading.augmentation.effect import IntensityEffect, Node, around_one, positive_range
from data_loading.augmentation.graph import column, statistics
from data_loading.augmentation.kernels import range_and_mean
from data_loading.errors import LoaderError


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(Settings):
    """Augmentation: contrast."""

    error = LoaderError

    contrast: float = setting(0.15, "probability that a patch's contrast changes", check=probability)
    contrast_range: tuple[float, float] = setting(
        (0.75, 1.25), "factor about the mean, for each channel; the range is kept", check=positive_range
    )


class Contrast(IntensityEffect[ContrastSettings]):
    """Parameters: the factor of each channel."""

    settings = ContrastSettings
    chance = "contrast"

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        if rng.random() >= self.given.contrast:
            return None
        return around_one(rng, self.given.contrast_range, channels)

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        for channel, factor in zip(image_cdhw, parameters, strict=True):
            if factor > 0:
                _contrast(channel.reshape(-1), factor)

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        low, high, mean = statistics(image, shape)
        return dmath.clamp((image - mean) * column(parameters, image, shape) + mean, low, high)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _contrast(flat, factor):  # type: ignore[no-untyped-def]
    low, high, mean = range_and_mean(flat)
    for i in range(flat.size):
        flat[i] = min(max((flat[i] - mean) * factor + mean, low), high)
