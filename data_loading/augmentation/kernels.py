"""Compiled statistics of a channel, which several effects need; sums are float64."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

TINY = np.float32(1e-7)  # instead of a range or a deviation of 0


@nb.njit(cache=True, nogil=True, fastmath=True)
def range_and_mean(flat):  # type: ignore[no-untyped-def]
    """Least, largest and mean value of a flat float32 array."""
    low = high = flat[0]
    total = 0.0
    for value in flat:
        low = min(low, value)
        high = max(high, value)
        total += value
    return low, high, np.float32(total / flat.size)


@nb.njit(cache=True, nogil=True, fastmath=True)
def deviation(flat, mean):  # type: ignore[no-untyped-def]
    """Standard deviation of a flat float32 array about its mean."""
    total = 0.0
    for value in flat:
        total += (value - mean) * (value - mean)
    return np.float32(math.sqrt(total / flat.size))
