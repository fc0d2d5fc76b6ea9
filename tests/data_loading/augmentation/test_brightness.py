"""Brightness multiplies."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data_loading.augmentation.ways import WAYS, column, effect

pytestmark = pytest.mark.loader


@pytest.mark.parametrize("way", WAYS)
def test_brightness_multiplies(way: str, image: np.ndarray) -> None:
    bright = effect(way, image, "brightness", [1.2, 0.8][: len(image)])
    assert np.abs(bright - image * column([1.2, 0.8], image)).max() < 1e-5
