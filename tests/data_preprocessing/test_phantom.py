"""Made-up scans: the same every time, and as asked."""

import numpy as np
import pytest

from data_preprocessing.layouts import read_dataset
from data_preprocessing.layouts.dataset import read_scan
from data_preprocessing.phantom import Phantom, draw, main


def test_the_same_seed_draws_the_same_scan():
    first, again, other = draw(Phantom(), 3), draw(Phantom(), 3), draw(Phantom(seed=1), 3)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("modality", ["CT", "MRI"])
def test_both_classes_are_there_and_the_lesion_is_small(modality):
    for index in range(4):
        image, label, geometry = draw(Phantom(modality=modality, channels=2), index)
        organ, lesion = (label == 1).sum(), (label == 2).sum()
        assert 30 < lesion < 0.3 * organ
        assert image.shape == (2, *geometry.shape_dhw)
        assert image[0][label[0] == 2].mean() > image[0][label[0] == 1].mean() + 50


def test_lungs_hold_air_and_vessels():
    image = draw(Phantom(modality="CT", lungs=True, shape_dhw=(48, 64, 64)), 0)[0][0]
    body = image[24]
    assert ((image > -930) & (image < -770)).mean() > 0.05
    assert (body > 250).any()
    assert image[0, 0, 0] < -900


def test_command_writes_a_dataset(tmp_path, capsys):
    arguments = (
        "--cases 2 --test_cases 1 --shape_dhw 10 24 20 --spacing_mm 4 1 1 --tilt_deg 15 --channels 2 --files channels"
    )
    assert main(["--out", str(tmp_path / "d"), *arguments.split()]) == 0
    assert "2 training and 1 test scans" in capsys.readouterr().out
    dataset = read_dataset(tmp_path / "d")
    image, geometry, label = read_scan(dataset.training[1])
    drawn, truth, where = draw(Phantom(shape_dhw=(10, 24, 20), spacing_mm=(4, 1, 1), tilt_deg=15, channels=2), 1)
    assert np.array_equal(image, drawn) and np.array_equal(label, truth)
    assert where.mismatch(geometry) is None


def test_impossible_sizes_are_refused(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--shape_dhw", "2", "16", "16"]) == 1
    assert "error: a phantom needs sides of 8 voxels" in capsys.readouterr().err
