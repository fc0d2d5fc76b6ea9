"""Low resolution equals torch's resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data_loading.augmentation.ways import WAYS, effect

pytestmark = pytest.mark.loader


@pytest.mark.parametrize("way", WAYS)
def test_low_resolution_equals_torch(way: str, image: np.ndarray) -> None:
    coarse = effect(way, image, "low_resolution", [0.6, 0.0][: len(image)])
    tensor = torch.from_numpy(image[None, :1])
    sides = image.shape[1:]
    small = torch.nn.functional.interpolate(
        tensor, size=[int(np.floor(s * 0.6 + 0.5)) for s in sides], mode="nearest-exact"
    )
    mode = "trilinear" if image.ndim == 4 else "bilinear"
    expected = torch.nn.functional.interpolate(small, size=sides, mode=mode, align_corners=False)[0, 0].numpy()
    assert np.abs(coarse[0] - expected).max() < 1e-3
    assert np.array_equal(coarse[1:], image[1:])


@pytest.mark.parametrize("way", WAYS)
def test_low_resolution_of_anisotropic_patches_keeps_the_slices_apart(way: str) -> None:
    image = np.zeros((1, 6, 16, 20), np.float32)
    image[0, ::2] = 1
    coarse = effect(way, image, "low_resolution", [0.5], in_plane=True)
    assert np.abs(coarse - image).max() < 1e-5
