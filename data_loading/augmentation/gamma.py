"""Gamma, of the image and of the inverted image: a power of the intensities scaled to [0, 1].

x = (image - min) / (max - min); y = x ** exponent; out = (y - mean(y)) / std(y) * std(image) + mean(image), by channel:
mean and standard deviation are kept. The inverted form does the same to -image and inverts the result. As nnU-Net's,
Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
from nvidia.dali import fn
from nvidia.dali import math as dmath

from cases.settings import Settings, probability, setting
from data_loading.augmentation import graph
from data_loading.augmentation.effect import IntensityEffect, Node, around_one, positive_range
from data_loading.augmentation.kernels import TINY, deviation, range_and_mean
from data_loading.augmentation.vector_math import exp2, log2
from data_loading.errors import LoaderError


@dataclass(frozen=True, kw_only=True)
class GammaSettings(Settings):
    """Augmentation: gamma."""

    error = LoaderError

    gamma_inverted: float = setting(0.1, "probability of the power curve on the inverted patch", check=probability)
    gamma: float = setting(0.3, "probability of the power curve on the patch itself", check=probability)
    gamma_range: tuple[float, float] = setting(
        (0.7, 1.5), "exponent, for each channel; mean and standard deviation are kept", check=positive_range
    )


class Gamma(IntensityEffect[GammaSettings]):
    """Parameters: the exponent of each channel."""

    settings = GammaSettings
    chance = "gamma"

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        if rng.random() >= self.given.gamma:
            return None
        return around_one(rng, self.given.gamma_range, channels)

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        _apply(image_cdhw, parameters, np.float32(1))

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        return _dali_gamma(image, parameters, shape)


class GammaInverted(IntensityEffect[GammaSettings]):
    """Parameters: the exponent of each channel."""

    settings = GammaSettings
    chance = "gamma_inverted"

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        if rng.random() >= self.given.gamma_inverted:
            return None
        return around_one(rng, self.given.gamma_range, channels)

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        _apply(image_cdhw, parameters, np.float32(-1))

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        return -_dali_gamma(-image, parameters, shape)


def _apply(image_cdhw: np.ndarray, exponents: np.ndarray, sign: np.float32) -> None:
    for channel, exponent in zip(image_cdhw, exponents, strict=True):
        if exponent > 0:
            _gamma(channel.reshape(-1), exponent, sign)


def _dali_gamma(image: Node, exponents: Node, shape: Sequence[int]) -> Node:
    low, high, mean = graph.statistics(image, shape)
    axes = graph.spatial(shape)
    spread = fn.reductions.std_dev(image, mean, axes=axes, keep_dims=True)
    # The range is restored by the deviation below, so the power works on [0, 1] alone.
    exponent = graph.column(exponents, image, shape)
    curved = dmath.fpow((image - low) / dmath.max(high - low, graph.TINY), exponent)
    new_mean = fn.reductions.mean(curved, axes=axes, keep_dims=True)
    new_spread = fn.reductions.std_dev(curved, new_mean, axes=axes, keep_dims=True)
    return (curved - new_mean) * (spread / dmath.max(new_spread, graph.TINY)) + mean


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _gamma(flat, exponent, sign):  # type: ignore[no-untyped-def]
    """sign -1 works on the inverted image: its least value is the image's largest."""
    low, high, mean = range_and_mean(flat)
    spread = deviation(flat, mean)
    least = low if sign > 0 else high
    scale = 1 / max(high - low, TINY)
    total = 0.0
    for i in range(flat.size):
        flat[i] = exp2(exponent * log2(abs(flat[i] - least) * scale))
        total += flat[i]
    curved_mean = np.float32(total / flat.size)
    stretch = sign * spread / max(deviation(flat, curved_mean), TINY)
    for i in range(flat.size):
        flat[i] = (flat[i] - curved_mean) * stretch + mean
