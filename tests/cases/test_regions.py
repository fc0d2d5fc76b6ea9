"""Regions of arrays and of tensors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cases.plan import Normalization, Plan
from cases.regions import (
    RegionError,
    Regions,
    RegionSettings,
    brats_regions,
    check_challenge_names,
    parse_regions,
    read_regions,
    write_regions,
)

NAMES = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
ROOT = Path(__file__).parents[2]


def plan(**changes):
    made = Plan(
        name="a",
        dataset="a",
        dim=3,
        channels=("T1",),
        labels=NAMES,
        spacing_mm=(1, 1, 1),
        patch_size=(8, 8, 8),
        normalization=(Normalization(scheme="zscore"),),
    )
    return made.with_(**changes)


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
    assert RegionSettings().of(plan()) is None
    assert RegionSettings(brats=True).of(plan()) == brats_regions(NAMES)
    with pytest.raises(RegionError, match="--brats needs classes named edema"):
        RegionSettings(brats=True).of(plan(labels=("background", "liver")))
    gaps = plan(labels=("background", "necrosis", "rim", "ring"), label_values=(0, 1, 2, 4))
    chosen = RegionSettings(regions=("whole=1,2,4", "core=1,4", "enhancing=4")).of(gaps)
    assert chosen == Regions(names=("whole", "core", "enhancing"), members=((1, 2, 3), (1, 3), (3,)), values=(2, 1, 3))
    assert RegionSettings().of(gaps.with_(regions=("all=1,2,4:2",))).members == ((1, 2, 3),)
    with pytest.raises(RegionError, match="exclude each other"):
        RegionSettings(brats=True, regions=("whole=1",))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["whole"], "not such as whole=1,2,4"),
        (["whole=1,x"], "not such as whole=1,2,4"),
        (["=1"], "needs a name of its own"),
        (["a=1", "a=2"], "needs a name of its own"),
        (["whole=1,2,3"], r"has values \[3\], the dataset's label files have 1, 2, 4"),
        (["whole=1,2,4:5"], r"has values \[5\]"),
        (["whole=1,2,4", "core=4"], "2 of its values are in no later region"),
        (["core=4", "whole=1,2,4:2"], "0 of its values are in no later region"),
    ],
)
def test_regions_that_cannot_be_are_refused_by_name(specs, message):
    with pytest.raises(RegionError, match=message):
        parse_regions(specs, (0, 1, 2, 4))


def test_names_that_contradict_the_challenges_cases_are_refused():
    wrong = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
    for case in ("BraTS2021_00000", "BraTS20_Training_001", "Brats18_CBICA_AAM_1", "BraTS-GLI-00000-000"):
        with pytest.raises(RegionError, match=f"{case}.*value 1 is the necrotic core.*calls 1 'edema'.*--regions"):
            check_challenge_names(wrong, [case])
    check_challenge_names(wrong, ["BRATS_001"])  # Task01's own
    check_challenge_names(("background", "necrotic core", "edema", "enhancing"), ["BraTS2021_00000"])


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
