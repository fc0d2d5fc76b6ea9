"""Intensities there and back."""

import numpy as np
import pytest

from cases.plan import Normalization, PlanError
from cases.registry import RegistryError
from data_preprocessing.normalizations import normalize, scheme_of, stored_range

CT = Normalization(scheme="ct", lower=-200, upper=300, mean=50, std=100)
MRI = Normalization(scheme="zscore")


def scan(shape=(12, 16, 20)):
    return np.random.default_rng(0).normal(80, 200, shape).astype(np.float32)


def test_ct_is_clipped_then_scaled_by_the_datasets_numbers():
    out, intensity = normalize(scan(), CT)
    assert np.allclose(out, (np.clip(scan(), -200, 300) - 50) / 100, atol=1e-6)
    back = out * np.float32(intensity.scale) + np.float32(intensity.shift)
    assert np.allclose(back, np.clip(scan(), -200, 300), atol=1e-4)


def test_mri_is_scaled_by_its_own_voxels_that_are_not_zero():
    image = scan()
    image[:, :8] = 0
    out, intensity = normalize(image, MRI)
    inside = image[image != 0]
    assert out[:, 8:].mean() == pytest.approx(0, abs=1e-5) and out[:, 8:].std() == pytest.approx(1, abs=1e-5)
    assert not out[:, :8].any()
    assert (intensity.shift, intensity.scale) == (
        pytest.approx(inside.mean(), rel=1e-5),
        pytest.approx(inside.std(), rel=1e-5),
    )


def test_scans_that_come_normalised_are_rescaled_or_left_alone():
    image = scan()
    out, intensity = normalize(image, Normalization(scheme="rescale"))
    assert (out.min(), out.max()) == (0, pytest.approx(1, abs=1e-6))
    assert np.allclose(out * np.float32(intensity.scale) + np.float32(intensity.shift), image, atol=1e-3)
    out, intensity = normalize(image, Normalization(scheme="none"))
    np.testing.assert_array_equal(out, image)
    assert out is not image and (intensity.shift, intensity.scale) == (0, 1)
    assert (intensity.low, intensity.high) == pytest.approx(np.percentile(image, (0.5, 99.5)))


def test_flat_channels_stay_finite():
    assert not normalize(np.full((2, 3, 4), 5, np.float32), Normalization(scheme="rescale"))[0].any()
    assert normalize(np.full((2, 3, 4), 5, np.float32), MRI)[0].max() == 0
    assert stored_range(np.zeros((2, 3, 4), np.float32), keeps_zero=True) == (0.0, 0.0)


def test_range_of_a_large_channel_is_near_the_exact_one():
    image = scan((40, 200, 200)) + np.linspace(0, 500, 200, dtype=np.float32)
    assert stored_range(image, keeps_zero=False) == pytest.approx(np.percentile(image, (0.5, 99.5)), abs=3)


def test_what_a_plan_cannot_ask_for_is_said_where_it_is_used():
    with pytest.raises(PlanError, match="normalisation ct needs lower, upper, mean and a std above 0"):
        scheme_of(Normalization(scheme="ct", lower=0, upper=1, mean=0, std=0))
    with pytest.raises(RegistryError, match=r"'zscores' is none of ct, zscore.*did you mean zscore"):
        scheme_of(Normalization(scheme="zscores"))


def test_a_plan_alone_runs_no_own_code(tmp_path):
    (tmp_path / "own_scheme_in_a_plan.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(RegistryError, match=r"a file alone does not start: give --normalization with the file"):
        normalize(scan(), Normalization(scheme="own_scheme_in_a_plan:Square"), own=("other.py:Square",))
