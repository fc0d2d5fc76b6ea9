"""Layouts of datasets, and what is wrong with some."""

import json

import numpy as np
import pytest

from cases.volumes import VolumeError
from data_preprocessing.layouts import read_dataset
from data_preprocessing.layouts.dataset import DatasetError, array_faults, find_scans, read_scan
from data_preprocessing.phantom import Phantom, write_dataset

SMALL = Phantom(shape_dhw=(12, 16, 20))


def describe(folder, **values):
    (folder / "dataset.json").write_text(json.dumps(values))


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_decathlon(tmp_path):
    write_dataset(tmp_path, SMALL, cases=2, test_cases=1)
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("MRI0",) and dataset.labels == ("background", "organ", "lesion")
    assert [scan.case for scan in dataset.training] == ["phantom_000", "phantom_001"]
    assert [(scan.case, scan.label) for scan in dataset.test] == [("phantom_002", None)]
    image, geometry, label = read_scan(dataset.training[0])
    assert image.shape == (1, *geometry.shape_dhw) and label.shape == image.shape


def test_channels_in_one_file_or_one_each_are_the_same_scans(tmp_path):
    for files in ("4d", "channels"):
        write_dataset(tmp_path / files, Phantom(shape_dhw=(12, 16, 20), channels=2, files=files), cases=1, test_cases=1)
    one, each = read_dataset(tmp_path / "4d"), read_dataset(tmp_path / "channels")
    assert [len(scan.images) for scan in (*each.training, *each.test)] == [2, 2]
    assert [s.case for s in (*one.training, *one.test)] == [s.case for s in (*each.training, *each.test)]
    assert np.array_equal(read_scan(one.training[0])[0], read_scan(each.training[0])[0])


def test_nnunet_v2_lists_no_scans_and_maps_names_to_values(tmp_path):
    touch(tmp_path / "imagesTr", "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "._a_0000.nii.gz")
    touch(tmp_path / "labelsTr", "a.nii.gz", "b.nii.gz")
    channels, labels = {"0": "T1", "1": "FLAIR"}, {"background": 0, "lesion": 1}
    describe(tmp_path, channel_names=channels, labels=labels, numTraining=2, file_ending=".nii.gz")
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("T1", "FLAIR") and dataset.labels == ("background", "lesion")
    assert [(s.case, len(s.images), s.label.name) for s in dataset.training] == [
        ("a", 2, "a.nii.gz"),
        ("b", 2, "b.nii.gz"),
    ]


def test_nnunet_v1_lists_names_without_channel_numbers(tmp_path):
    touch(tmp_path / "imagesTr", "a_0000.nii.gz", "a_0001.nii.gz")
    describe(tmp_path, modality={"0": "A", "1": "B"}, labels={"0": "bg"}, training=[{"image": "./imagesTr/a.nii.gz"}])
    (scan,) = read_dataset(tmp_path).training
    assert scan.case == "a" and [path.name for path in scan.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize(
    ("names", "channels", "expected"),
    [
        (["x.nii.gz", "y.mha", "notes.txt"], None, {"x": 1, "y": 1}),
        (["s_0001.nii.gz", "s_0002.nii.gz"], None, {"s_0001": 1, "s_0002": 1}),
        (["s_0000.nii.gz", "s_0001.nii.gz"], None, {"s_0000": 1, "s_0001": 1}),
        (["s_0000.nii.gz", "s_0001.nii.gz"], 2, {"s": 2}),
        (["a_0000.nii", "a_0001.nii", "b_0000.nii", "b_0001.nii"], None, {"a": 2, "b": 2}),
        (["a_0000.nii", "b_0000.nii"], 1, {"a": 1, "b": 1}),
    ],
)
def test_scans_of_a_plain_folder(tmp_path, names, channels, expected):
    touch(tmp_path, *names)
    assert {scan.case: len(scan.images) for scan in find_scans(tmp_path, channels)} == expected


def test_folders_that_are_no_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"absent is not a folder; --data and --task"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match=r"holds no scans: neither dataset\.json nor image files"):
        read_dataset(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(DatasetError, match=r"has imagesTr but no dataset\.json"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset\.json is not JSON"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["_label", "_seg", "_mask", "-labels", "_GT"])
def test_label_maps_beside_their_scans_are_not_taken_as_scans(tmp_path, suffix):
    touch(tmp_path, "x.nii.gz", f"x{suffix}.nii.gz", "y_0000.nii.gz", f"y{suffix}.nii.gz", "other_mask.nii.gz")
    with pytest.raises(
        DatasetError, match=f"2 are named as label maps of others: x{suffix}.nii.gz, y{suffix}"
    ) as raised:
        read_dataset(tmp_path)
    assert '"image label" lines' in str(raised.value) and "labelsTr" in str(raised.value)
    for case in "xy":
        (tmp_path / f"{case}{suffix}.nii.gz").unlink()
    assert len(read_dataset(tmp_path).training) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": {"0": "bg"}}, r'"modality" \(or "channel_names"\) must be such as'),
        ({"modality": {"0": "CT"}, "labels": ["bg"]}, '"labels" must be such as'),
        ({"modality": {"0": "CT"}, "labels": {"bg": 0, "whole": [1, 2]}}, "2 of its values are in no later region"),
        ({"modality": {"0": "CT"}, "labels": {"0": "bg"}}, 'lists no "training" scans'),
        ({"modality": {"0": "CT"}, "training": ["a.nii", "b/a.nii"]}, "cases a are listed more than once"),
        ({"modality": {"0": "CT"}, "training": [{"label": "a.nii"}]}, "is not such as"),
    ],
)
def test_descriptions_that_are_refused(tmp_path, values, message):
    describe(tmp_path, **values)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_label_on_another_grid_is_refused_by_name(tmp_path):
    write_dataset(tmp_path, SMALL, cases=2)
    first, second = read_dataset(tmp_path).training
    with pytest.raises(VolumeError, match=r"phantom_000\.nii\.gz and .*phantom_001\.nii\.gz do not match"):
        read_scan(type(first)(case="mixed", images=first.images, label=second.label))


def test_array_faults():
    image, label = np.ones((1, 2, 3, 4), np.float32), np.full((1, 2, 3, 4), 3, np.uint8)
    assert array_faults(image, label, channels=1, values=range(4)) == []
    assert "label values [3]" in array_faults(image, label, channels=1, values=range(3))[0]
    image[0, 0, 0] = np.inf
    assert array_faults(image, None, channels=1, values=range(1))[0].startswith("4 voxels are NaN or infinite")
    assert "zero everywhere" in array_faults(np.zeros_like(image), None, channels=1, values=range(1), empty=True)[0]
