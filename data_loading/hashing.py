"""Randomness as a function of a counter: what a voxel or a window draws depends on a seed and its own number alone.

So nothing is drawn in order: threads, devices and resumed runs agree. The numba form stands here; Triton, torch and
DALI forms elsewhere take these constants. The mixing function is one of Chris Wellons' hash prospector (public
domain, https://github.com/skeeto/hash-prospector).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba import uint32 as u32

MULTIPLIERS = (0x21F0AAAD, 0x735A2D97)
SHIFTS = (16, 15, 15)  # before the first multiplication, between the two, after the second
WORD = 0xFFFFFFFF

_FIRST, _SECOND = MULTIPLIERS
_BEFORE, _BETWEEN, _AFTER = SHIFTS


def words(seed: int) -> tuple[np.uint32, np.uint32]:
    """The two halves of a 64-bit seed, low first."""
    return np.uint32(seed & WORD), np.uint32((seed >> 32) & WORD)


@njit(inline="always")
def mix(x):  # type: ignore[no-untyped-def]
    """A bijection of 32-bit words that changes about half of the bits where one changes."""
    # numba promotes 32-bit arithmetic to 64 bits: every step is cast back.
    x = u32(x ^ u32(x >> u32(_BEFORE)))
    x = u32(x * u32(_FIRST))
    x = u32(x ^ u32(x >> u32(_BETWEEN)))
    x = u32(x * u32(_SECOND))
    return u32(x ^ u32(x >> u32(_AFTER)))


@njit(inline="always")
def hash_word(counter, low, high):  # type: ignore[no-untyped-def]
    """The counter's 32-bit word in the stream of a 64-bit seed, given as its two halves."""
    return mix(u32(mix(u32(u32(counter) ^ low)) + high))


@njit(inline="always")
def uniform(counter, low, high):  # type: ignore[no-untyped-def]
    """float32 in [0, 1), in steps of 2**-24; see :func:`hash_word`."""
    return np.float32(hash_word(counter, low, high) >> u32(8)) * np.float32(2.0**-24)
