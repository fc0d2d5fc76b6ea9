"""Contrast stretches about the mean."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data_loading.augmentation.ways import WAYS, column, effect

pytestmark = pytest.mark.loader


@pytest.mark.parametrize("name", ["contrast"])
def test_a_constant_patch_stays_constant(name: str) -> None:
    image = np.full((1, 4, 6, 5), -3.5, np.float32)
    assert np.array_equal(effect("compiled", image, name, [0.8]), image)


@pytest.mark.parametrize("way", WAYS)
def test_contrast_stretches_about_the_mean_and_keeps_the_range(way: str, image: np.ndarray) -> None:
    stretched = effect(way, image, "contrast", [1.25, 0.75][: len(image)])
    spatial = tuple(range(1, image.ndim))
    low, high, mean = (f(image, axis=spatial, keepdims=True) for f in (np.min, np.max, np.mean))
    expected = np.clip((image - mean) * column([1.25, 0.75], image) + mean, low, high)
    assert np.abs(stretched - expected).max() < 1e-4
