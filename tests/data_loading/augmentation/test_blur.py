"""Blur equals SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.data_loading.augmentation.ways import WAYS, effect

pytestmark = pytest.mark.loader


@pytest.mark.parametrize("way", WAYS)
def test_blur_equals_scipy(way: str, image: np.ndarray) -> None:
    sigma = np.array([[0.5, 0.7, 1.0], [0.0, 0.0, 0.0]])[: len(image), : image.ndim - 1]
    blurred = effect(way, image, "blur", sigma)
    radius = tuple(int(np.ceil(3 * s)) for s in sigma[0])
    expected = ndimage.gaussian_filter(image[0], sigma[0], mode="mirror", radius=radius)
    assert np.abs(blurred[0] - expected).max() < 1e-4
    assert np.array_equal(blurred[1:], image[1:])


def test_blur_wider_than_the_patch_mirrors_again() -> None:
    image = np.random.default_rng(0).normal(size=(1, 2, 1, 5)).astype(np.float32)
    sigma = np.array([[2.0, 2.0, 2.0]])
    blurred = effect("compiled", image, "blur", sigma)
    expected = ndimage.gaussian_filter(image[0], 2.0, mode="mirror", radius=6)
    assert np.abs(blurred[0] - expected).max() < 1e-5
