"""Both rules of where resized voxels lie, against SciPy and PyTorch."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from cases.grid import nearest_places, voxel_places

SIZES = [(12, 16), (16, 12), (20, 7), (5, 5), (3, 1), (1, 4), (448, 113)]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_corner_aligned_is_scipys_zoom(old: int, new: int) -> None:
    line = np.arange(old, dtype=np.float64)
    places = nearest_places(old, new, corners=True)
    if new > 1 < old:  # of a single voxel SciPy makes something else
        np.testing.assert_array_equal(line[places], ndimage.zoom(line, new / old, order=0))
        assert (places[0], places[-1]) == (0, old - 1)
    assert places.dtype == np.intp


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_half_voxel_is_pytorchs_nearest_exact(old: int, new: int) -> None:
    line = torch.arange(old, dtype=torch.float32)
    expected = torch.nn.functional.interpolate(line[None, None], size=(new,), mode="nearest-exact")[0, 0]
    np.testing.assert_array_equal(nearest_places(old, new), expected.numpy())


def test_extents_agree_under_the_half_voxel_rule() -> None:
    assert voxel_places(12, 6).tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]
    assert voxel_places(3, 6)[[0, -1]].tolist() == [-0.25, 2.25]
    assert voxel_places(5, 3, corners=True).tolist() == [0, 2, 4]
