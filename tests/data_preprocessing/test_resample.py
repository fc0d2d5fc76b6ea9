"""Resizing against skimage, class by class, and the way back."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from cases.grid import nearest_places
from data_preprocessing.resample import (
    anisotropic_axis,
    axis_matrix,
    resample_image,
    resample_label,
    resampled_shape,
)

SHAPE = (12, 16, 20)
TARGETS = [(17, 16, 20), (12, 11, 20), (12, 16, 33), (9, 21, 27), (5, 40, 7), (30, 31, 50), (1, 2, 3)]


def scan(shape=SHAPE, seed=0):
    """Values of a CT, with edges and noise."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 2000
    return (smooth + rng.normal(size=shape) * 60).astype(np.float32)


def labels(shape=SHAPE, n_class=5, seed=0):
    noise = np.random.default_rng(seed).normal(size=(n_class, *shape))
    return np.stack([ndimage.gaussian_filter(n, 1.5) for n in noise]).argmax(axis=0).astype(np.uint8)[None]


def skimage_image(volume, shape):
    return resize(volume.astype(np.float64), shape, order=3, mode="edge", anti_aliasing=False, clip=True)


def skimage_label(label, shape):
    out = np.zeros(shape, np.uint8)
    for value in range(1, label.max() + 1):
        mask = (label == value).astype(np.float64)
        out[resize(mask, shape, order=1, mode="edge", anti_aliasing=False, clip=True) >= 0.5] = value
    return out


def skimage_repeat(volume, shape):
    return resize(volume.astype(np.float64), shape, order=0, mode="constant", cval=0, anti_aliasing=False, clip=True)


@pytest.mark.parametrize("shape", TARGETS)
def test_image_equals_skimage_border_included(shape):
    image = np.stack([scan(seed=0), scan(seed=1) + 300])
    ours = resample_image(image, shape)
    assert ours.shape == (2, *shape) and ours.dtype == np.float32
    for channel, result in zip(image, ours, strict=True):
        assert np.abs(result - skimage_image(channel, shape)).max() <= 1e-5 * np.abs(channel).max()


def test_image_with_more_voxels_than_taps_equals_skimage():
    image = scan((30, 64, 50))[None]
    theirs = skimage_image(image[0], (41, 50, 75))
    assert np.abs(resample_image(image, (41, 50, 75))[0] - theirs).max() <= 1e-5 * np.abs(image).max()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(25, 21, 27), (7, 16, 20), (12, 11, 33), (24, 8, 40)])
def test_anisotropic_image_equals_skimage_slice_by_slice(shape, axis):
    image = scan()
    planes = tuple(np.delete(shape, axis))
    in_plane = np.stack([skimage_image(s, planes) for s in np.moveaxis(image, axis, 0)], axis=axis)
    theirs = skimage_repeat(in_plane, shape)
    ours = resample_image(image[None], shape, anisotropic_axis=axis)[0]
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(image).max()


@pytest.mark.parametrize("shape", TARGETS)
def test_label_equals_skimage_class_by_class(shape):
    label = labels()
    assert (resample_label(label, shape)[0] != skimage_label(label[0], shape)).sum() == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_anisotropic_label_equals_skimage_slice_by_slice(axis):
    label, shape = labels(n_class=4), (25, 21, 27)
    planes = tuple(np.delete(shape, axis))
    in_plane = np.stack([skimage_label(s, planes) for s in np.moveaxis(label[0], axis, 0)], axis=axis)
    ours = resample_label(label, shape, anisotropic_axis=axis)[0]
    assert (ours != skimage_repeat(in_plane, shape).astype(np.uint8)).sum() == 0


@pytest.mark.parametrize(("n", "m"), [(12, 25), (25, 12), (3, 3), (7, 14), (14, 7), (1, 4), (25, 54), (100, 133)])
def test_nearest_equals_skimage(n, m):
    assert np.array_equal(nearest_places(n, m), skimage_repeat(np.arange(n), (m,)))


@pytest.mark.parametrize(("n", "m"), [(16, 33), (33, 16), (1, 3), (2, 5), (40, 40)])
def test_linear_order_equals_skimage(n, m):
    image = scan((3, n, 4))[None]
    theirs = resize(image[0].astype(np.float64), (3, m, 4), order=1, mode="edge", anti_aliasing=False)
    assert np.abs(resample_image(image, (3, m, 4), order=1)[0] - theirs).max() <= 1e-5 * np.abs(image).max()


def test_rows_of_every_matrix_sum_to_one():
    for n, m in [(1, 5), (5, 1), (100, 133), (512, 460)]:
        assert np.abs(axis_matrix(n, m)[1].sum(axis=1) - 1).max() < 1e-5


def test_unchanged_shape_is_the_input():
    image, label = scan()[None], labels()
    assert resample_image(image, SHAPE) is image
    assert resample_label(label, SHAPE, anisotropic_axis=0) is label


def test_finer_grid_and_back_keeps_labels():
    label = labels(n_class=3)
    for axis in (None, 0):
        back = resample_label(resample_label(label, (30, 31, 45), anisotropic_axis=axis), SHAPE, anisotropic_axis=axis)
        for value in (1, 2):
            a, b = label == value, back == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99


def test_shape_of_the_target_spacing():
    assert resampled_shape((25, 256, 256), (6.5, 0.78125, 0.78125), (3, 1, 1)) == (54, 200, 200)
    assert resampled_shape((10, 512, 512), (5.0, float(np.float32(0.7676)), 0.7676), (5, 0.7676, 0.7676))[1] == 512
    assert resampled_shape((1, 4, 4), (1, 1, 1), (3, 1, 1)) == (1, 4, 4)


def test_anisotropic_axis_is_the_coarsest_of_scan_or_target():
    assert anisotropic_axis((6.5, 0.8, 0.8), (1, 1, 1)) == 0
    assert anisotropic_axis((1, 1, 1), (1, 1, 3)) == 2
    assert anisotropic_axis((2.9, 1, 1), (1, 1, 1)) is None
