"""Plans from what the cases have in common."""

import math

import numpy as np
import pytest

from cases.plan import topology
from data_preprocessing.layouts import DatasetError, read_dataset
from data_preprocessing.phantom import Phantom, draw, write_dataset
from data_preprocessing.planning.fingerprint import Facts, examine
from data_preprocessing.planning.making import make_plan, needs_statistics, patch_size, target_spacing
from data_preprocessing.planning.tasks import TASKS


def facts_of(*shapes, spacing_mm=(1.0, 1.0, 1.0)):
    return [Facts(case=str(i), shape_cropped=shape, spacing_mm=spacing_mm) for i, shape in enumerate(shapes)]


def test_spacing_is_the_median_and_the_10th_percentile_on_a_coarse_axis():
    assert target_spacing([(1, 1, 1), (2, 1, 1), (2.5, 0.5, 1)]) == (2, 1, 1)
    coarse = [(float(z), 1.0, 1.0) for z in range(3, 14)]
    assert target_spacing(coarse) == (4.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((36, 50, 35), (40, 56, 40)),
        ((400, 400, 400), (128, 128, 128)),
        ((5, 16, 20), (5, 16, 20)),
        ((1, 64, 64), (1, 64, 64)),
    ],
)
def test_patch_of_the_median_case(shape, expected):
    assert patch_size(facts_of(shape), (1.0, 1.0, 1.0), 3) == expected


@pytest.mark.parametrize("shape", [(30, 512, 512), (600, 512, 512), (97, 311, 203), (14, 1000, 1000)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8)])
def test_patches_stay_within_the_budget_and_can_be_halved(shape, spacing):
    patch = patch_size(facts_of(shape, spacing_mm=spacing), spacing, 3)
    assert 0.5 * 128**3 < math.prod(patch) <= 128**3
    assert all(side % stride == 0 for side, stride in zip(patch, topology(patch, spacing).total_stride, strict=True))
    assert all(side < want + 32 for side, want in zip(patch, shape, strict=True))
    assert max(topology(patch, spacing).total_stride) >= 8


def test_2d_patches_follow_the_planes():
    assert patch_size(facts_of((9, 300, 700)), (1.0, 1.0, 1.0), 2) == (320, 512)


def test_ct_statistics_are_those_of_all_foreground_voxels(tmp_path):
    phantom = Phantom(shape_dhw=(20, 32, 40), modality="CT")
    write_dataset(tmp_path, phantom, cases=3)
    dataset = read_dataset(tmp_path)
    facts = list(examine(dataset.training, dataset, intensities=True, jobs=1))
    plan = make_plan(facts, dataset, name="x_3d", dim=3, ohe=False)
    drawn = [draw(phantom, index)[:2] for index in range(3)]
    voxels = np.concatenate([image[0][label[0] > 0] for image, label in drawn])
    how = plan.normalization[0]
    assert (how.scheme, plan.intensities_from) == ("ct", "foreground")
    assert how.mean == pytest.approx(voxels.mean(dtype=float)) and how.std == pytest.approx(voxels.std(dtype=float))
    assert (how.lower, how.upper) == pytest.approx(np.percentile(voxels, (0.5, 99.5)), abs=1)


def test_scans_without_labels_are_told_apart_and_counted_without_air(tmp_path):
    for modality in ("CT", "MRI"):
        folder = tmp_path / modality
        write_dataset(folder, Phantom(shape_dhw=(20, 32, 40), modality=modality, lungs=True), cases=2)
        dataset = read_dataset(folder / "imagesTr")
        facts = list(examine(dataset.training, dataset, intensities=True, jobs=1))
        plan = make_plan(facts, dataset, name="x_3d", dim=3, ohe=False)
        assert plan.channels == (modality,) and plan.labels == ("background",)
        if modality == "CT":
            assert plan.intensities_from == "not air" and plan.normalization[0].lower >= -900
    assert make_plan(facts, dataset, name="x_3d", dim=3, ohe=False, modality="MRI").normalization[0].scheme == "zscore"


def test_nothing_sound_makes_no_plan(tmp_path):
    write_dataset(tmp_path, Phantom(shape_dhw=(12, 16, 20)), cases=1)
    with pytest.raises(DatasetError, match="none of its 1 cases can be used"):
        make_plan([Facts(case="a", faults=("bad",))], read_dataset(tmp_path), name="x_3d", dim=3, ohe=False)


def test_intensities_are_counted_only_where_the_plan_will_need_them(tmp_path):
    write_dataset(tmp_path, Phantom(shape_dhw=(12, 16, 20)), cases=1)
    named, unnamed = read_dataset(tmp_path), read_dataset(tmp_path / "imagesTr")
    assert not needs_statistics(named, None, None, None)
    assert needs_statistics(named, None, None, ("ct",))
    assert not needs_statistics(unnamed, None, None, ("none", "rescale"))
    assert needs_statistics(unnamed, None, None, None) and not needs_statistics(unnamed, None, "MRI", None)
    assert not needs_statistics(unnamed, TASKS["09"], "CT", None)
