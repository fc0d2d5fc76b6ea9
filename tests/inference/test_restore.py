import numpy as np
import pytest
import torch

from cases.case import CaseInfo
from cases.plan import Normalization, Plan
from cases.regions import brats_regions
from cases.volumes import Geometry
from data_preprocessing.preprocessor import prepare
from data_preprocessing.resample import resample_image
from inference import restore as restore_module
from inference.restore import decide, restore, to_cropped
from inference.sliding_window import Slab, SlidingWindow


def oblique(spacing_dhw, angle=0.3):
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * np.array(spacing_dhw[::-1])
    affine[:3, 3] = (-20, 30, 7)
    return affine


def scan(shape, spacing, affine=None):
    """Two ellipsoids within a smaller non-zero part, so that cropping does something."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    label = np.zeros((1, *shape), np.uint8)
    label[0][sum((g + 0.1) ** 2 for g in grids) < 0.35] = 1
    label[0][sum(((g - 0.3) / 0.4) ** 2 for g in grids) < 1] = 2
    image = np.zeros((1, *shape), np.float32)
    image[0, 2:-1, 3:-2, 1:-4] = np.random.default_rng(0).normal(100, 10, shape)[2:-1, 3:-2, 1:-4]
    label[image == 0] = 0
    return image, label, Geometry.of(shape, spacing, np.diag([*spacing[::-1], 1]) if affine is None else affine)


def plan(spacing, patch, dim=3):
    return Plan(
        name="x_3d", dataset="x", dim=dim, channels=("MRI",), labels=("background", "a", "b"),
        spacing_mm=spacing, patch_size=patch, normalization=(Normalization(scheme="zscore"),),
    )  # fmt: skip


CASES = {
    "identity": ((24, 32, 40), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (16, 48, 16)),
    "finer": ((24, 32, 40), (1.0, 1.2, 1.0), (0.8, 0.9, 0.7), (16, 24, 72)),
    "anisotropic": ((24, 64, 80), (4.0, 0.8, 0.8), (3.2, 0.7, 0.75), (8, 32, 32)),
    "oblique": ((40, 48, 56), (1.0, 0.9, 1.1), (0.9, 0.9, 0.9), (16, 16, 64)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pad", [True, False])
def test_round_trip_of_a_label(name, pad, monkeypatch):
    """One-hot labels of the stored grid, as scores, come back as the scan's label."""
    monkeypatch.setattr(restore_module, "PIECE", 20000)
    shape, spacing, target, patch = CASES[name]
    image, label, geometry = scan(shape, spacing, oblique(spacing) if name == "oblique" else None)
    case = prepare(image, geometry, plan(target, patch), case=name, pad=pad, label=label)
    onehot = np.stack([case.label[0] == value for value in range(3)]).astype(np.float32)
    slabs = SlidingWindow(patch_size=patch).stream(onehot, lambda x: x)
    restored = restore(slabs, case.info).labels_dhw
    assert restored.shape == shape
    for value in (1, 2):
        a, b = restored == value, label[0] == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99, (name, value)


def info_of(shape_cropped, shape_resampled, *, before=(0, 0, 0), crop_at=(0, 0, 0), scan_shape=None, spacing=None):
    end = tuple(a + n for a, n in zip(crop_at, shape_cropped, strict=True))
    return CaseInfo(
        case="c", images=(), label=None, geometry=Geometry.of(scan_shape or end, spacing or (1, 1, 1), np.eye(4)),
        crop_box=(crop_at, end), shape_resampled=shape_resampled, pad_before=before,
        shape_stored=tuple(n + 2 * b for n, b in zip(shape_resampled, before, strict=True)),
        spacing_mm=(1.0, 1.0, 1.0), intensity=(), voxels_per_class=(), seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [1, 3, 50])
@pytest.mark.parametrize("cropped", [(12, 16, 20), (17, 30, 11), (5, 7, 33)])
def test_slabs_resize_as_the_whole_does(axis, step, cropped, monkeypatch):
    monkeypatch.setattr(restore_module, "PIECE", 900)
    scores = torch.rand(2, 12, 16, 20, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(scores, (1, 1, 1, 1, 1, 1), value=9.0)
    n = padded.shape[axis + 1]
    spans = [(low, min(low + step, n)) for low in range(0, n, step)]
    slabs = (Slab(axis, low, high, padded.narrow(axis + 1, low, high - low)) for low, high in spans)
    out = torch.full((2, *cropped), float("nan"))
    for slab in to_cropped(slabs, info_of(cropped, (12, 16, 20), before=(1, 1, 1))):
        out[(slice(None), *slab.place)] = slab.scores_cdhw
    assert np.abs(out.numpy() - resample_image(scores.numpy(), cropped, order=1)).max() < 1e-5


def test_the_coarse_axis_goes_back_by_nearest_slice():
    scores = torch.rand(2, 12, 16, 20)
    info = info_of((7, 16, 20), (12, 16, 20), spacing=(4.0, 1.0, 1.0))
    (slab,) = to_cropped([Slab(0, 0, 12, scores)], info)
    assert torch.equal(slab.scores_cdhw, scores[:, [0, 2, 4, 6, 7, 9, 11]])


def test_outside_the_crop_box_is_background():
    info = info_of((4, 5, 6), (4, 5, 6), crop_at=(1, 2, 3), scan_shape=(12, 16, 20))
    scores = torch.stack([torch.full((4, 5, 6), 0.25), torch.full((4, 5, 6), 0.75)])
    got = restore([Slab(2, 0, 6, scores)], info, keep_probabilities=True)
    assert got.labels_dhw.sum() == 4 * 5 * 6
    assert got.labels_dhw[1:5, 2:7, 3:9].all()
    assert got.probabilities_cdhw.shape == (2, 12, 16, 20)
    assert got.probabilities_cdhw[:, 0, 0, 0].tolist() == [1, 0]
    assert got.probabilities_cdhw[:, 1, 2, 3].tolist() == [0.25, 0.75]
    assert restore([Slab(2, 0, 6, scores)], info).probabilities_cdhw is None


def test_regions_are_decided_at_one_half():
    regions = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    scores = torch.tensor([[0.4, 0.6, 0.9, 0.9], [0.1, 0.2, 0.8, 0.9], [0.0, 0.3, 0.5, 0.7]]).reshape(3, 1, 1, 4)
    assert decide(scores, regions).flatten().tolist() == [0, 1, 2, 3]
