"""The counter hash against its definition in plain integers, and its even spread."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from data_loading.hashing import MULTIPLIERS, SHIFTS, WORD, hash_word, mix, uniform, words


@njit
def _mixed(x):  # type: ignore[no-untyped-def]
    return mix(x)


@njit
def _drawn(count, low, high):  # type: ignore[no-untyped-def]
    hashes, shares = np.empty(count, np.uint32), np.empty(count, np.float32)
    for i in range(count):
        hashes[i] = hash_word(np.uint32(i), low, high)
        shares[i] = uniform(np.uint32(i), low, high)
    return hashes, shares


def plain_mix(x: int) -> int:
    """The definition, in unbounded integers."""
    x ^= x >> SHIFTS[0]
    x = (x * MULTIPLIERS[0]) & WORD
    x ^= x >> SHIFTS[1]
    x = (x * MULTIPLIERS[1]) & WORD
    return x ^ (x >> SHIFTS[2])


@pytest.mark.parametrize("x", [0, 1, 2, 0x12345678, 0x80000000, WORD])
def test_mix_equals_its_definition(x: int) -> None:
    assert int(_mixed(np.uint32(x))) == plain_mix(x)


def test_a_word_depends_on_counter_and_both_halves_of_the_seed() -> None:
    seed = 0x0123456789ABCDEF
    low, high = words(seed)
    assert (int(low), int(high)) == (0x89ABCDEF, 0x01234567)
    hashes, shares = _drawn(1000, low, high)
    expected = [plain_mix((plain_mix(i ^ int(low)) + int(high)) & WORD) for i in range(1000)]
    assert hashes.tolist() == expected
    assert shares.tolist() == [(word >> 8) * 2.0**-24 for word in expected]
    for other in (seed ^ 1, seed ^ (1 << 32)):
        assert np.mean(_drawn(1000, *words(other))[0] == hashes) < 0.01


def test_shares_are_uniform() -> None:
    _, shares = _drawn(100_000, *words(7))
    counts = np.bincount((shares * 20).astype(int), minlength=20)
    assert counts.min() > 4700
    assert counts.max() < 5300
    assert abs(np.corrcoef(shares[:-1], shares[1:])[0, 1]) < 0.01
