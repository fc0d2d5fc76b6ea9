"""Warps equal SciPy's, compiled and as DALI's graph."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_loading.augmentation.pipeline import Augmentation
from data_loading.augmentation.warp import dali_matrix, dali_warp_image, dali_warp_label, warp_image, warp_label
from data_loading.sources.sampling import PatchSampler, generator
from tests.data_loading.augmentation.ways import SIDES, WAYS, run_graph

pytestmark = pytest.mark.loader


def random_affine(seed: int, sides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    sampler = PatchSampler(
        seed=seed,
        n_cases=1,
        batch_size=1,
        steps_per_epoch=1,
        patch_dhw=sides,
        mirror_axes=(0, 1, 2),
        in_plane=sides[0] == 1,
        augmentation=Augmentation.only("rotation", "scaling", "mirror"),
    )
    patch = sampler.draw(generator(seed), SIDES, np.zeros((0, 4), np.int32))
    return patch.matrix, patch.offset


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sides", [(8, 12, 16), (12, 18, 20), (1, 10, 14)])
def test_warps_equal_scipy(way: str, sides: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    image = ndimage.gaussian_filter(rng.normal(size=(2, *SIDES)), (0, 1, 1, 1)).astype(np.float32)
    label = rng.integers(0, 200, (1, *SIDES), dtype=np.uint8)
    for seed in range(3):
        matrix, offset = random_affine(seed, sides)
        if way == "compiled":
            warped = warp_image(image, matrix, offset, np.array(sides))
            labels = warp_label(label, matrix, offset, np.array(sides))
        else:
            affine = dali_matrix(matrix, offset, 3)
            warped = run_graph(lambda i, m: (dali_warp_image(i, m, sides),), image, affine, device=way)
            labels = run_graph(lambda i, m: (dali_warp_label(i, m, sides),), label, affine, device=way)
        settings = {"offset": offset, "output_shape": sides, "mode": "grid-constant", "cval": 0}
        expected = np.stack([ndimage.affine_transform(c, matrix, order=1, **settings) for c in image])
        nearest = np.stack([ndimage.affine_transform(c, matrix, order=0, **settings) for c in label])
        assert warped.shape == (2, *sides)
        assert labels.dtype == np.uint8
        assert np.abs(warped - expected).max() < 1e-3
        assert np.mean(labels != nearest) < 2e-3
