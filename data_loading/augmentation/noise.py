"""Gaussian noise: out = image + std * n, n a standard normal of each voxel.

n is Box and Muller's transform sqrt(-2 ln u) cos(2 pi v) of two 24-bit uniforms, the voxel's counter hashes in two
streams of a 64-bit seed: a pure function of seed and place. DALI's ``random.normal`` keeps a state of its own: batches
would change with the batch size, and on resuming. Its strength is nnU-Net's, Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dmath

from cases.settings import Settings, probability, rising, setting
from data_loading.augmentation.effect import IntensityEffect, Node
from data_loading.augmentation.vector_math import cos_turns, log2
from data_loading.errors import LoaderError
from data_loading.hashing import MULTIPLIERS, SHIFTS, hash_word

SEED_STEP = 0x9E3779B9  # between the two streams of one seed: the golden ratio in 32 bits


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(Settings):
    """Augmentation: Gaussian noise."""

    error = LoaderError

    noise: float = setting(0.1, "probability that noise is added to a patch", check=probability)
    noise_variance: tuple[float, float] = setting((0.0, 0.1), "variance of the noise", check=rising)


class Noise(IntensityEffect[NoiseSettings]):
    """Parameters: the standard deviation, then the seed in four words of 16 bits, which float32 holds exactly."""

    settings = NoiseSettings
    chance = "noise"

    def width(self, channels: int, axes: int) -> int:
        return 5

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        if rng.random() >= self.given.noise:
            return None
        std = math.sqrt(rng.uniform(*self.given.noise_variance))
        return np.array([std, *rng.integers(2**16, size=4)])

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        parts = [int(part) for part in parameters[1:]]
        low, high = parts[0] | parts[1] << 16, parts[2] | parts[3] << 16
        add_noise(image_cdhw, (np.uint32(low), np.uint32(high)), float(parameters[0]))

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        parts = fn.cast(parameters[1:5], dtype=types.DALIDataType.UINT32)
        low, high = parts[0] + parts[1] * _word(2**16), parts[2] + parts[3] * _word(2**16)
        mixed = _mix(_flat_index(shape, image.device) ^ low) + high
        u = (fn.cast(_mix(mixed) // _word(2**8), dtype=types.DALIDataType.FLOAT) + 1.0) * 2.0**-24
        v = fn.cast(_mix(mixed + _word(SEED_STEP)) // _word(2**8), dtype=types.DALIDataType.FLOAT) * 2.0**-24
        return image + parameters[0] * dmath.sqrt(-2.0 * dmath.log(u)) * dmath.cos(2 * math.pi * v)

    def neighbour(self, parameters: np.ndarray, index: int) -> np.ndarray:
        """Each slice has noise of its own."""
        other = parameters.copy()
        other[1] = (int(parameters[1]) + index) % 2**16
        return other


def add_noise(image_cdhw: np.ndarray, seed: tuple[np.uint32, np.uint32], std: float) -> None:
    """Add Gaussian noise in place. Voxel i of the flat array takes the i-th normal of the seed (``hashing.words``)."""
    _add_noise(image_cdhw.reshape(-1), *seed, np.float32(std))


@nb.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_noise(flat, low, high, std):  # type: ignore[no-untyped-def]
    second = np.uint32(high + np.uint32(SEED_STEP))
    step = np.float32(2.0**-24)
    scale = np.float32(-2 * math.log(2))
    for i in range(flat.size):
        u = np.float32((hash_word(i, low, high) >> np.uint32(8)) + np.uint32(1)) * step
        v = np.float32(hash_word(i, low, second) >> np.uint32(8)) * step
        flat[i] += std * np.float32(math.sqrt(scale * log2(u))) * cos_turns(v)


def _flat_index(shape: Sequence[int], device: str) -> Node:
    """Each voxel's place in the flat array, uint32, as a sum of ramps: DALI stores constants as Python lists."""
    ramps = []
    for axis, side in enumerate(shape):
        ramp = np.arange(side, dtype=np.uint32) * np.uint32(math.prod(shape[axis + 1 :]))
        ramps.append(types.Constant(ramp.reshape([-1 if i == axis else 1 for i in range(len(shape))]), device=device))
    return functools.reduce(operator.add, ramps)


def _mix(x: Node) -> Node:
    """``hashing.mix`` of uint32 nodes; // shifts right."""
    x = (x ^ (x // _word(2 ** SHIFTS[0]))) * _word(MULTIPLIERS[0])
    x = (x ^ (x // _word(2 ** SHIFTS[1]))) * _word(MULTIPLIERS[1])
    return x ^ (x // _word(2 ** SHIFTS[2]))


def _word(value: int) -> Any:
    """A uint32 constant; Python's integers would be promoted to int32."""
    return types.Constant(value, dtype=types.DALIDataType.UINT32)
