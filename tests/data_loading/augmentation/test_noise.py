"""Noise is Gaussian, and a function of the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from data_loading.augmentation.noise import Noise, NoiseSettings, add_noise
from data_loading.hashing import words
from tests.data_loading.augmentation.ways import WAYS, effect

pytestmark = pytest.mark.loader


def parameters(seed: int, std: float) -> np.ndarray:
    """As the effect packs them."""
    return np.array([std, *((seed >> shift) & 0xFFFF for shift in (0, 16, 32, 48))], np.float32)


@pytest.mark.parametrize("way", WAYS)
def test_noise_is_gaussian_and_the_seeds_alone(way: str) -> None:
    shape = (2, 12, 40, 50)

    def noise(seed: int, std: float) -> np.ndarray:
        image = np.zeros(shape, np.float32)
        if way == "compiled":
            add_noise(image, words(seed), std)
            return image
        return effect(way, image, "noise", parameters(seed, std))

    first, again, other = noise(7, 0.3), noise(7, 0.3), noise(2**64 - 5, 0.3)
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first.ravel()[:-1], first.ravel()[1:])[0, 1]) < 0.02
    assert first.mean() == pytest.approx(0, abs=0.006)
    assert first.std() == pytest.approx(0.3, abs=0.004)
    for quantile, normal in ((0.0228, -2), (0.1587, -1), (0.8413, 1), (0.9772, 2)):
        assert np.quantile(first, quantile) == pytest.approx(0.3 * normal, abs=0.02)
    compiled = np.zeros(shape, np.float32)
    add_noise(compiled, words(7), 0.3)
    assert np.abs(first - compiled).max() < 1e-4


def test_packed_parameters_are_the_seed() -> None:
    seed = 0xFEDC_BA98_7654_3210
    plain, packed = np.zeros((1, 4, 5, 6), np.float32), np.zeros((1, 4, 5, 6), np.float32)
    add_noise(plain, words(seed), 0.5)
    Noise(NoiseSettings()).apply_cpu(packed, parameters(seed, 0.5), False)
    assert np.array_equal(plain, packed)
    assert plain.any()


def test_neighbouring_slices_have_noise_of_their_own() -> None:
    noise = Noise(NoiseSettings())
    drawn = parameters(0xFFFF, 0.3)
    slices = [noise.neighbour(drawn, index) for index in range(5)]
    assert len({tuple(values) for values in slices}) == 5
    assert all(values[0] == drawn[0] for values in slices)
    assert max(values.max() for values in slices) < 2**16
