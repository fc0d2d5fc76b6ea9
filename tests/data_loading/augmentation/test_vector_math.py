"""The polynomials against NumPy in double precision."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest

from data_loading.augmentation.vector_math import cos_turns, exp2, log2


@nb.vectorize
def many_log2(x):  # type: ignore[no-untyped-def]
    return log2(x)


@nb.vectorize
def many_exp2(x):  # type: ignore[no-untyped-def]
    return exp2(x)


@nb.vectorize
def many_cos_turns(x):  # type: ignore[no-untyped-def]
    return cos_turns(x)


@pytest.mark.parametrize("places", [np.linspace(1e-6, 4, 100_001), 2.0 ** np.arange(-24, 12)])
def test_log2(places: np.ndarray) -> None:
    x = places.astype(np.float32)
    exact = np.log2(x.astype(np.float64))
    assert np.max(np.abs(many_log2(x) - exact) / np.maximum(1, np.abs(exact))) < 2e-7


def test_exp2() -> None:
    x = np.linspace(-120, 20, 100_001).astype(np.float32)
    assert np.max(np.abs(many_exp2(x) / np.exp2(x.astype(np.float64)) - 1)) < 3e-7


def test_a_power_of_zero_is_zero() -> None:
    assert many_log2(np.float32(0)) == -127
    assert 0 <= many_exp2(np.float32(0.7) * many_log2(np.float32(0))) < 1e-26
    assert 0 <= many_exp2(np.float32(-1000)) < 2e-38


def test_cosine_of_turns() -> None:
    x = np.linspace(0, 1, 100_001).astype(np.float32)
    assert np.max(np.abs(many_cos_turns(x) - np.cos(2 * np.pi * x.astype(np.float64)))) < 1e-6
