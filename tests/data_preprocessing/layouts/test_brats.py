"""The BraTS challenge's folders."""

import numpy as np
import pytest

from data_preprocessing.layouts import DatasetError, read_dataset
from data_preprocessing.layouts.dataset import read_scan
from data_preprocessing.phantom import Phantom, write_dataset

PHANTOM = Phantom(shape_dhw=(16, 24, 20), channels=4, files="brats", seed=4)


def test_2021(tmp_path):
    write_dataset(tmp_path, PHANTOM, cases=2, test_cases=1)
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("FLAIR", "T1", "T1CE", "T2")
    assert (dataset.labels[1], dataset.values) == ("necrotic core", (0, 1, 2, 4))
    assert [scan.case for scan in dataset.training] == ["BraTS2021_00000", "BraTS2021_00001"]
    assert [(scan.case, scan.label) for scan in dataset.test] == [("BraTS2021_00002", None)]
    image, _, label = read_scan(dataset.training[0])
    assert image.shape[0] == 4 and set(np.unique(label)) == {0, 1, 2, 4}
    assert read_dataset(tmp_path / "BraTS2021_00001").training == dataset.training[1:]


def test_2023(tmp_path):
    case = "BraTS-GLI-00000-000"
    (tmp_path / case).mkdir()
    for ending in ("t1n", "t1c", "t2w", "t2f", "seg"):
        (tmp_path / case / f"{case}-{ending}.nii.gz").touch()
    dataset = read_dataset(tmp_path)
    names = [path.name.removeprefix(case) for path in dataset.training[0].images]
    assert names == ["-t2f.nii.gz", "-t1n.nii.gz", "-t1c.nii.gz", "-t2w.nii.gz"] and dataset.values == (0, 1, 2, 3)
    old = tmp_path / "BraTS2021_00000"
    old.mkdir()
    (old / "BraTS2021_00000_t1.nii.gz").touch()
    with pytest.raises(DatasetError, match="names of two years"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no folders such as BraTS2021_00000"):
        (tmp_path / "empty").mkdir()
        read_dataset(tmp_path / "empty", "brats")
