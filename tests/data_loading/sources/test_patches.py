"""Image and label of a patch come from the same place, whatever happens to it on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cases.case import CaseError
from cases.plan import Plan
from data_loading.augmentation.pipeline import Augmentation
from data_loading.loader import PatchLoader
from data_loading.module import LoaderSettings, SliceSettings, patch_source, patch_spec
from data_loading.sources.sampling import PlaceSettings

MakeFolder = Callable[..., tuple]
NONE = Augmentation()
only = Augmentation.only


def coordinates(shape_dhw: Sequence[int] = (12, 16, 20)) -> Callable[[int], np.ndarray]:
    """Four channels: each voxel's own z, y and x, from 1 on, and a 1; padding is 0."""
    axes = [np.arange(1, n + 1) for n in shape_dhw]
    return lambda _: np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones(shape_dhw)])


def loader(
    folder_plan_cases: tuple, settings: LoaderSettings, augmentation: Augmentation, *, compiled: bool
) -> PatchLoader:
    folder, plan, cases = folder_plan_cases
    slices = SliceSettings(data2d_dim=2)
    source = patch_source(folder, plan, cases, settings, augmentation, slices=slices, compiled=compiled)
    spec = patch_spec(source, plan, settings, device_id=None)
    return PatchLoader(source, spec, steps=source.sampler.steps_per_epoch)


@pytest.mark.loader
@pytest.mark.parametrize("way", ["kernels", "graph"])
@pytest.mark.parametrize("effects", [("rotation",), ("scaling",), ("mirror",), ("rotation", "scaling", "mirror"), ()])
@pytest.mark.parametrize("patch_size", [(8, 12, 16), (4, 12, 16), (12, 16)], ids=["3D", "anisotropic", "2D"])
def test_every_label_is_that_of_the_image_voxel(
    make_folder: MakeFolder, way: str, effects: tuple[str, ...], patch_size: tuple[int, ...]
) -> None:
    made = make_folder(2, channels=4, image=coordinates(), patch_size=patch_size)
    folder, _, cases = made
    settings = LoaderSettings(batch_size=4, num_workers=0, steps_per_epoch=3)
    labels = [np.load(folder / f"{case}_y.npy")[0] for case in cases]
    with loader(made, settings, only(*effects), compiled=way == "kernels") as batches:
        compared = 0
        for batch in batches:
            for image, label in zip(batch["image"].numpy(), batch["label"].numpy(), strict=True):
                image, label = image.reshape(4, -1), label.reshape(-1)
                place = image[:3] - 1
                # Where no padding is mixed in, and away from the middle between two voxels.
                sure = (np.abs(image[3] - 1) < 1e-6) & (np.abs(place - np.floor(place) - 0.5) > 1e-2).all(0)
                index = tuple(np.rint(place[:, sure]).astype(int))
                agree = max(np.mean(volume[index] == label[sure]) for volume in labels)
                assert agree == 1.0
                compared += int(sure.sum())
    assert compared > 1000


@pytest.mark.loader
def test_the_graph_and_the_kernels_make_the_same_batches(make_folder: MakeFolder) -> None:
    made = make_folder(3, channels=2, patch_size=(8, 12, 16))
    effects = only("rotation", "scaling", "noise", "blur", "gamma", "mirror", "low_resolution", "contrast")
    settings = LoaderSettings(batch_size=3, num_workers=0, steps_per_epoch=3)
    with (
        loader(made, settings, effects, compiled=True) as kernels,
        loader(made, settings, effects, compiled=False) as graph,
    ):
        for ours, theirs in zip(kernels, graph, strict=True):
            assert float((ours["label"] != theirs["label"]).float().mean()) < 2e-3
            assert float((ours["image"] - theirs["image"]).abs().median()) < 1e-3


def test_unwarped_patches_are_exact_copies(make_folder: MakeFolder) -> None:
    rng = np.random.default_rng(0)
    made = make_folder(2, image=lambda _: rng.normal(size=(1, 12, 16, 20)))
    source = patch_source(*made, LoaderSettings(steps_per_epoch=4), NONE, compiled=True)
    for index in range(8):
        case, patch = source.draw(0, index)
        image, label, *_ = source.arrays(case, patch)
        box = tuple(slice(int(s), int(s) + n) for s, n in zip(patch.offset, (8, 12, 16), strict=True))
        assert np.array_equal(image, case.image_cdhw[(slice(None), *box)])
        assert np.array_equal(label, case.label[(slice(None), *box)])


@pytest.mark.parametrize("compiled", [True, False])
def test_float16_storage_reads_as_float32(make_folder: MakeFolder, compiled: bool) -> None:
    effects = only("rotation", "mirror")
    half, full = (
        patch_source(
            *make_folder(2, image=coordinates(), channels=4, dtype=dtype), LoaderSettings(), effects, compiled=compiled
        )
        for dtype in ("float16", "float32")
    )
    for index in range(4):
        narrow, wide = (s(SimpleNamespace(iteration=0, idx_in_batch=index)) for s in (half, full))
        assert narrow[0].dtype == (np.float32 if compiled else np.float16)  # a graph widens it on the device
        assert np.abs(narrow[0].astype(np.float32) - wide[0]).max() < 1e-4


def test_volumes_smaller_than_the_patch_are_padded_with_zeros(make_folder: MakeFolder) -> None:
    made = make_folder(1, shape_dhw=(4, 16, 20), image=lambda _: np.ones((1, 4, 16, 20)))
    source = patch_source(*made, LoaderSettings(), NONE, compiled=True)
    image, label, *_ = source(SimpleNamespace(iteration=0, idx_in_batch=0))
    assert image.shape == (1, 8, 12, 16)
    assert image.sum(axis=(0, 2, 3)).tolist() == [0, 0, 192, 192, 192, 192, 0, 0]
    assert label[0, :2].max() == label[0, 6:].max() == 0


def test_neighbouring_slices_fill_a_2d_batch(make_folder: MakeFolder) -> None:
    made = make_folder(4, channels=4, image=coordinates(), patch_size=(12, 16))
    places, slices = PlaceSettings(oversampling=0.0), SliceSettings(nvol=2)
    source = patch_source(*made, LoaderSettings(batch_size=8), NONE, places=places, slices=slices, compiled=True)
    depths = [source(SimpleNamespace(iteration=0, idx_in_batch=i))[0][0, 0, 0] for i in range(8)]
    assert np.diff(depths).tolist()[:3] == [1, 1, 1]
    assert np.diff(depths).tolist()[4:] == [1, 1, 1]
    assert len({source.sampler.case_index(0, group) for group in range(2)}) == 2


def test_a_2d_patch_of_foreground_comes_from_a_slice_that_holds_it(make_folder: MakeFolder) -> None:
    folder, plan, cases = make_folder(2, channels=4, image=coordinates(), patch_size=(12, 16))
    for case in cases:
        np.save(folder / f"{case}_fg.npy", np.array([[1, 5, 8, 9]], np.int32))
    places, slices = PlaceSettings(oversampling=1.0), SliceSettings(data2d_dim=2)
    settings = LoaderSettings(batch_size=4)
    source = patch_source(folder, plan, cases, settings, NONE, places=places, slices=slices, compiled=True)
    depths = [source(SimpleNamespace(iteration=0, idx_in_batch=i))[0][0, 0, 0] for i in range(4)]
    assert depths == [6, 6, 6, 6]


def test_a_smaller_channel_count_is_an_error_of_the_plan(make_folder: MakeFolder) -> None:
    folder, plan, cases = make_folder(1, channels=2)
    narrow: Plan = replace(plan, channels=plan.channels[:1], normalization=plan.normalization[:1])
    source = patch_source(folder, narrow, cases, LoaderSettings(), Augmentation.nnunet(), compiled=True)
    with pytest.raises(CaseError, match="the plan say"):
        source(SimpleNamespace(iteration=0, idx_in_batch=0))
