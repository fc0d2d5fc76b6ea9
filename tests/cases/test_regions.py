"""Regions of arrays and of tensors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cases.regions import RegionError, RegionSettings, brats_regions, read_regions, write_regions

NAMES = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
ROOT = Path(__file__).parents[2]


def labels():
    return np.random.default_rng(0).integers(0, 4, (2, 1, 3, 4, 5), dtype=np.uint8)


def test_channels_of_arrays_and_tensors_are_the_unions_of_their_classes():
    regions = brats_regions(NAMES)
    label = labels()
    expected = np.concatenate([np.isin(label, group) for group in regions.members], axis=1)
    found = regions.channels(label)
    assert found.dtype == bool and np.array_equal(found, expected)
    for dtype in (torch.uint8, torch.int64, torch.float32):
        tensor = regions.channels(torch.from_numpy(label).to(dtype))
        assert tensor.dtype == torch.bool and np.array_equal(tensor.numpy(), expected)
    ignored = np.full((1, 1, 2), 255, np.uint8)
    assert not regions.channels(ignored).any() and not regions.channels(torch.from_numpy(ignored)).any()


def test_labels_of_arrays_and_tensors_come_back():
    regions = brats_regions(NAMES)
    label = labels()
    for inside in (regions.channels(label)[0], regions.channels(torch.from_numpy(label))[0]):
        back = regions.label(inside)
        assert np.asarray(back).dtype == np.uint8 and np.array_equal(np.asarray(back), label[0, 0])
    alone = np.array([[False], [False], [True]])  # an inner region counts, whatever the outer ones say
    assert regions.label(alone).tolist() == [regions.values[2]]


def test_settings_name_the_regions_of_a_dataset():
    assert RegionSettings().regions(NAMES) is None
    assert RegionSettings(brats=True).regions(NAMES) == brats_regions(NAMES)
    with pytest.raises(RegionError, match="--brats needs classes named edema"):
        RegionSettings(brats=True).regions(("background", "liver"))


def test_files(tmp_path):
    write_regions(tmp_path, brats_regions(NAMES))
    assert read_regions(tmp_path) == brats_regions(NAMES)
    (tmp_path / "regions.json").write_text("{}")
    with pytest.raises(RegionError, match="does not describe regions"):
        read_regions(tmp_path)
    write_regions(tmp_path, None)
    assert read_regions(tmp_path) is None


def test_cases_import_neither_torch_nor_image_libraries():
    modules = "cases.case, cases.plan, cases.regions, cases.splits, cases.files, cases.registry, cases.volumes"
    heavy = "{'torch', 'SimpleITK', 'nibabel', 'sklearn', 'lightning_fabric', 'monai'}"
    code = f"import {modules}, sys; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_brats_regions_follow_the_names_of_either_numbering() -> None:
    task01 = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    assert task01.members == ((1, 2, 3), (2, 3), (3,))
    brats21 = brats_regions(("background", "necrotic core", "edema", "enhancing"))
    assert brats21.members == ((1, 2, 3), (1, 3), (3,))
    label = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 4)
    for regions in (task01, brats21):
        assert torch.equal(regions.label(regions.channels(label)[0]), label[0, 0])
    with pytest.raises(ValueError, match="edema"):
        brats_regions(("background", "liver"))
