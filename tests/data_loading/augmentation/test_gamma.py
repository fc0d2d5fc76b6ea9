"""Both gammas keep mean and deviation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data_loading.augmentation.ways import WAYS, effect

pytestmark = pytest.mark.loader


@pytest.mark.parametrize("name", ["gamma", "gamma_inverted"])
def test_a_constant_patch_stays_constant(name: str) -> None:
    image = np.full((1, 4, 6, 5), -3.5, np.float32)
    assert np.array_equal(effect("compiled", image, name, [0.8]), image)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_keeps_mean_and_deviation(way: str, inverted: bool, image: np.ndarray) -> None:
    exponents = [0.7, 1.5]
    name = "gamma_inverted" if inverted else "gamma"
    curved = effect(way, image, name, exponents[: len(image)])
    for channel, plain, exponent in zip(curved, -image if inverted else image, exponents, strict=False):
        span = plain.max() - plain.min()
        power = ((plain - plain.min()) / span) ** exponent * span + plain.min()
        expected = (power - power.mean()) / power.std() * plain.std() + plain.mean()
        assert np.abs(channel - (-expected if inverted else expected)).max() < 1e-3
    assert curved.mean() == pytest.approx(image.mean(), abs=1e-3)
    assert curved[0].std() == pytest.approx(image[0].std(), abs=1e-3)
