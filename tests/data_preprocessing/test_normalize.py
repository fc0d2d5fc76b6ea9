"""Intensities there and back."""

import numpy as np
import pytest

from cases.case import Intensity
from cases.plan import Normalization
from data_preprocessing.normalize import denormalize, normalize, stored_range

CT = Normalization(scheme="ct", lower=-200, upper=300, mean=50, std=100)
MRI = Normalization(scheme="zscore")


def scan(shape=(12, 16, 20)):
    return np.random.default_rng(0).normal(80, 200, shape).astype(np.float32)


def test_ct_is_clipped_then_scaled_by_the_datasets_numbers():
    out, shift, scale = normalize(scan(), CT)
    assert np.allclose(out, (np.clip(scan(), -200, 300) - 50) / 100, atol=1e-6)
    back = denormalize(out, Intensity(shift=shift, scale=scale, low=0, high=1))
    assert np.allclose(back, np.clip(scan(), -200, 300), atol=1e-4)


def test_mri_is_scaled_by_its_own_voxels_that_are_not_zero():
    image = scan()
    image[:, :8] = 0
    out, shift, scale = normalize(image, MRI)
    inside = image[image != 0]
    assert out[:, 8:].mean() == pytest.approx(0, abs=1e-5) and out[:, 8:].std() == pytest.approx(1, abs=1e-5)
    assert not out[:, :8].any()
    assert (shift, scale) == (pytest.approx(inside.mean(), rel=1e-5), pytest.approx(inside.std(), rel=1e-5))


def test_flat_channels_stay_finite():
    assert normalize(np.full((2, 3, 4), 5, np.float32), MRI)[0].max() == 0
    assert stored_range(np.zeros((2, 3, 4), np.float32), MRI) == (0.0, 0.0)


def test_range_of_a_large_channel_is_near_the_exact_one():
    image = scan((40, 200, 200)) + np.linspace(0, 500, 200, dtype=np.float32)
    assert stored_range(image, CT) == pytest.approx(np.percentile(image, (0.5, 99.5)), abs=3)
