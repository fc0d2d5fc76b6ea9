"""The chain of one case: equal to NVIDIA's, reversible, and clear about what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from cases.plan import Normalization, Plan
from cases.volumes import Geometry, read_label, read_volume
from data_preprocessing.crop import crop
from data_preprocessing.foreground import sample_foreground
from data_preprocessing.phantom import Phantom, draw
from data_preprocessing.preprocessor import PrepareError, prepare
from data_preprocessing.resample import anisotropic_axis, resample_label
from tests.data_preprocessing.oracles import uncrop, unpad

SHARED = Path(__file__).parents[3] / "shared"
PARITY = {
    "ct_isotropic_abdomen_5class_to_2mm": ("ct_multilabel/image", "ct_multilabel/label_5class", (64, 64, 64), 6),
    "mr_anisotropic_brain1_to_3x1x1": (
        "brain_anisotropic/brain1_image",
        "brain_anisotropic/brain1_label",
        (16, 64, 64),
        2,
    ),
    "mr_hippocampus_001_identity": (
        "Task04_Hippocampus/imagesTr/hippocampus_001",
        "Task04_Hippocampus/labelsTr/hippocampus_001",
        (40, 56, 40),
        3,
    ),
}
SPACINGS = {"ct": (2.0, 2.0, 2.0), "mr_a": (3.0, 1.0, 1.0), "mr_h": (1.0, 1.0, 1.0)}
CT = Normalization(scheme="ct", lower=-200, upper=300, mean=50, std=100)


def plan(spacing_mm=(1.0, 1.0, 1.0), patch_size=(16, 16, 16), n_class=3, how=None, channels=1, **changes):
    return Plan(
        name="99_3d",
        dataset="Task99_Test",
        channels=("scan",) * channels,
        labels=tuple(map(str, range(n_class))),
        spacing_mm=spacing_mm,
        patch_size=patch_size,
        normalization=(how or Normalization(scheme="zscore"),) * channels,
        **({"dim": 3} | changes),
    )


@pytest.mark.parametrize("name", PARITY)
def test_equals_nvidias_preprocessing(name):
    reference = SHARED / "parity" / "preprocess" / f"{name}.npz"
    if not reference.is_file():
        pytest.skip(f"{reference} is not here")
    image_file, label_file, patch, n_class = PARITY[name]
    image, geometry = read_volume([SHARED / "data" / f"{image_file}.nii.gz"])
    label, _ = read_label(SHARED / "data" / f"{label_file}.nii.gz")
    spacing = next(value for key, value in SPACINGS.items() if name.startswith(key))
    with np.load(reference) as expected:
        x, y, rows = expected["x"], expected["y"], expected["crop_bbox_and_shapes"].tolist()
    if name.startswith("ct"):  # the reference crops to values above 0, not to those that are not 0
        box = (tuple(rows[0]), tuple(rows[1]))
        image, label = crop(image, box), crop(label, box)
        geometry = Geometry.of(image.shape[1:], geometry.spacing_mm, geometry.affine_array)
    how = CT if name.startswith("ct") else None
    done = prepare(image, geometry, plan(spacing, patch, n_class, how), label=label, pad=True, case=name)
    assert done.image_cdhw.shape == x.shape
    assert np.abs(done.image_cdhw - x).max() < 1e-5 * np.abs(x).max()
    assert (done.label != y).sum() == 0
    assert done.info.shape_cropped == tuple(rows[3])


@pytest.mark.parametrize(
    ("phantom", "target"),
    [
        (Phantom(shape_dhw=(24, 32, 40)), (1.0, 1.0, 1.0)),
        (Phantom(shape_dhw=(12, 48, 40), spacing_mm=(4.0, 1.0, 1.0)), (2.0, 0.9, 0.9)),
        (Phantom(shape_dhw=(72, 80, 96), tilt_deg=20, spacing_mm=(1.2, 1.0, 1.1)), (0.9, 0.9, 0.9)),
    ],
    ids=["identity", "anisotropic", "oblique"],
)
def test_there_and_back_keeps_the_labels(phantom, target):
    image, label, geometry = draw(phantom, 0)
    done = prepare(image, geometry, plan(target, (64, 64, 64)), label=label, pad=True, case="a")
    info = done.info
    assert done.image_cdhw.shape[1:] == done.label.shape[1:] == info.shape_stored
    assert min(info.shape_stored) >= 64
    cropped = unpad(done.label, info.pad_before, info.shape_resampled)
    axis = anisotropic_axis(info.geometry.spacing_mm, info.spacing_mm)
    back = uncrop(
        resample_label(cropped, info.shape_cropped, anisotropic_axis=axis), info.crop_box, info.geometry.shape_dhw
    )
    assert back.shape == label.shape
    for value in (1, 2):
        a, b = back == value, label == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99
    assert np.array_equal(done.original_label, crop(label, info.crop_box))


def test_foreground_rows_are_voxels_of_their_class_spread_evenly():
    image, label, geometry = draw(Phantom(shape_dhw=(48, 64, 56)), 0)
    done = prepare(image, geometry, plan(), label=label, pad=True, case="a")
    rows = done.foreground
    assert rows.dtype == np.int32
    assert np.array_equal(done.label[0][tuple(rows[:, 1:].T)], rows[:, 0])
    counts = np.bincount(done.label.ravel(), minlength=3)
    assert done.info.voxels_per_class == tuple(counts.tolist())
    assert counts[1] > 4096 > counts[2]
    assert np.bincount(rows[:, 0]).tolist() == [0, 4096, counts[2]]
    assert len(np.unique(rows, axis=0)) == len(rows)
    organ, centre = np.argwhere(done.label[0] == 1).mean(axis=0), rows[rows[:, 0] == 1, 1:].mean(axis=0)
    assert np.abs(organ - centre).max() < 0.2


def test_the_last_class_may_fill_its_ranks():
    label = np.full((1, 20, 30, 40), 2, np.uint8)
    rows = sample_foreground(label, np.bincount(label.ravel(), minlength=3), seed=1)
    assert len(rows) == 4096 and set(rows[:, 0]) == {2}


def test_ohe_marks_the_voxels_that_are_not_zero():
    image, label, geometry = draw(Phantom(shape_dhw=(20, 32, 40), channels=2), 0)
    image[:, :, :, :6] = 0
    done = prepare(image, geometry, plan(channels=2, ohe=True), label=label, pad=True, case="a")
    assert done.image_cdhw.shape[0] == 3 and len(done.info.intensity) == 3
    cropped = crop((image != 0).any(axis=0), done.info.crop_box)
    mask = unpad(done.image_cdhw[2], done.info.pad_before, done.info.shape_resampled)
    assert np.array_equal(mask, cropped)


def test_2d_keeps_the_voxels_and_pads_in_plane_only():
    image, label, geometry = draw(Phantom(shape_dhw=(12, 30, 40), spacing_mm=(3.0, 1.2, 1.2)), 0)
    done = prepare(image, geometry, plan(patch_size=(64, 32), dim=2), label=label, pad=True, case="a")
    depth, height, width = done.info.shape_cropped
    assert done.info.shape_stored == (depth, 64, max(32, width)) and height < 64
    assert done.info.spacing_mm == geometry.spacing_mm
    assert np.array_equal(unpad(done.label, done.info.pad_before, done.info.shape_cropped), done.original_label)


def test_prediction_needs_no_label_and_no_padding():
    image, _, geometry = draw(Phantom(shape_dhw=(12, 30, 40)), 0)
    done = prepare(image, geometry, plan(patch_size=(64, 64, 64)), pad=False, case="a")
    assert done.info.shape_stored == done.info.shape_cropped
    assert done.label is done.original_label is done.foreground is None
    assert done.info.voxels_per_class == ()


def test_what_does_not_fit_is_named():
    image, label, geometry = draw(Phantom(shape_dhw=(12, 16, 20)), 0)
    spoilt = image.copy()
    spoilt[0, 3, 4, 5] = np.nan
    with pytest.raises(PrepareError, match="case_7: 1 voxels are NaN or infinite"):
        prepare(spoilt, geometry, plan(), pad=True, case="case_7")
    with pytest.raises(PrepareError, match=r"case_7: 1 channels.*the dataset has 2"):
        prepare(image, geometry, plan(channels=2), pad=True, case="case_7")
    with pytest.raises(PrepareError, match=r"label values \[2\] are not among the dataset's 0 to 1"):
        prepare(image, geometry, plan(n_class=2), label=label, pad=True, case="case_7")
    with pytest.raises(PrepareError, match="differ in shape"):
        prepare(image, geometry, plan(), label=label[:, 1:], pad=True, case="case_7")
