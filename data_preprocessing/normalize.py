"""Intensities to the network's scale, and back."""

from __future__ import annotations

import math

import numpy as np

from cases.case import Intensity
from cases.plan import Normalization

SAMPLE = 1_000_000  # voxels behind the percentiles of a channel: enough for three digits of the 0.5th
PERCENTILES = (0.5, 99.5)


def normalize(channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
    """One channel by the plan's rule.

    Returns:
        float32 values (raw - shift) / scale, a new array; shift; scale. "zscore" leaves zeros at 0,
        and a channel whose non-zero voxels are all alike at scale 1.
    """
    if how.scheme == "ct":
        assert how.mean is not None and how.std is not None  # a Normalization holds them, or is none
        out = np.clip(channel_dhw, how.lower, how.upper, dtype=np.float32)
        return _scale(out, how.mean, how.std), how.mean, how.std
    inside = channel_dhw != 0
    values = channel_dhw[inside]
    mean = float(values.mean(dtype=np.float64)) if len(values) else 0.0
    std = float(values.std(dtype=np.float64)) if len(values) else 0.0
    scale = std if std > 0 else 1.0
    out = _scale(channel_dhw.astype(np.float32), mean, scale)
    out *= inside
    return out, mean, scale


def denormalize(channel_dhw: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Back to the scan's units, where it was not clipped and, for "zscore", not empty."""
    return channel_dhw * np.float32(intensity.scale) + np.float32(intensity.shift)


def stored_range(channel_dhw: np.ndarray, how: Normalization) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of stored values, of those that are not zero for "zscore".

    Of a large channel at most ``SAMPLE`` voxels at even steps are looked at.
    """
    step = -(-channel_dhw.size // SAMPLE)
    while math.gcd(step, channel_dhw.shape[-1]) > 1:  # or the steps keep to a few columns
        step += 1
    values = channel_dhw.reshape(-1)[::step]
    if how.scheme == "zscore":
        values = values[values != 0]
    if not len(values):
        return 0.0, 0.0
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


def _scale(values: np.ndarray, shift: float, scale: float) -> np.ndarray:
    """(values - shift) / scale, in place."""
    values -= np.float32(shift)
    values *= np.float32(1 / scale)
    return values
