"""Each effect against an oracle, or its statistics, both ways: compiled, and as DALI's graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from scipy import ndimage

from data_loading.augmentation import intensity_cpu, kernels
from data_loading.augmentation import pipeline as augmentation
from data_loading.sources.sampling import AugmentationSettings as Settings
from data_loading.sources.sampling import Intensity, PatchSampler, dali_matrix, draw_intensity, generator

pytestmark = pytest.mark.loader
SIDES = (12, 16, 20)
WAYS = ["compiled", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
Graph = Callable[..., Any]


def run_graph(graph: Graph, *arrays: np.ndarray, device: str = "cpu", layout: str = "CDHW") -> np.ndarray:
    """One sample through a graph under conditionals; only the first array goes to the device."""
    if device == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    @pipeline_def(enable_conditionals=True, batch_size=1, num_threads=1, device_id=0 if device == "gpu" else None)
    def pipeline() -> Any:
        nodes = [
            fn.external_source(source=repeat([a]), batch=True, layout=layout if i == 0 else "")
            for i, a in enumerate(arrays)
        ]
        return graph(nodes[0].gpu() if device == "gpu" else nodes[0], *nodes[1:])

    run = pipeline()
    run.build()
    (output,) = run.run()
    return np.array((output.as_cpu() if device == "gpu" else output).as_array()[0])


def random_affine(seed: int, sides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    sampler = PatchSampler(
        seed=seed,
        n_cases=1,
        batch_size=1,
        steps_per_epoch=1,
        patch_dhw=sides,
        mirror_axes=(0, 1, 2),
        in_plane=sides[0] == 1,
        augmentation=Settings().only("rotation", "scaling", "mirror"),
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
            warped = kernels.warp_image(image, matrix, offset, np.array(sides))
            labels = kernels.warp_label(label, matrix, offset, np.array(sides))
        else:
            affine = dali_matrix(matrix, offset, 3)
            warped = run_graph(lambda i, m: (augmentation.warp_image(i, m, sides),), image, affine, device=way)
            labels = run_graph(lambda i, m: (augmentation.warp_label(i, m, sides),), label, affine, device=way)
        settings = {"offset": offset, "output_shape": sides, "mode": "grid-constant", "cval": 0}
        expected = np.stack([ndimage.affine_transform(c, matrix, order=1, **settings) for c in image])
        nearest = np.stack([ndimage.affine_transform(c, matrix, order=0, **settings) for c in label])
        assert warped.shape == (2, *sides)
        assert labels.dtype == np.uint8
        assert np.abs(warped - expected).max() < 1e-3
        assert np.mean(labels != nearest) < 2e-3


@pytest.mark.parametrize("way", WAYS)
def test_noise_is_gaussian_and_the_seeds_alone(way: str) -> None:
    shape = (2, 12, 40, 50)

    def noise(seed: int, std: float) -> np.ndarray:
        image = np.zeros(shape, np.float32)
        if way == "compiled":
            kernels.add_noise(image, seed, std)
            return image
        key, deviation = np.array([seed], np.uint32), np.array(std, np.float32)
        return run_graph(lambda i, k, d: (augmentation.add_noise(i, k, d, shape),), image, key, deviation, device=way)

    first, again, other = noise(7, 0.3), noise(7, 0.3), noise(2**32 - 5, 0.3)
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first.ravel()[:-1], first.ravel()[1:])[0, 1]) < 0.02
    assert first.mean() == pytest.approx(0, abs=0.006)
    assert first.std() == pytest.approx(0.3, abs=0.004)
    for quantile, normal in ((0.0228, -2), (0.1587, -1), (0.8413, 1), (0.9772, 2)):
        assert np.quantile(first, quantile) == pytest.approx(0.3 * normal, abs=0.02)
    compiled = np.zeros(shape, np.float32)
    kernels.add_noise(compiled, 7, 0.3)
    assert np.abs(first - compiled).max() < 1e-4


def effect(shape: tuple[int, ...], way: str, image: np.ndarray, *, in_plane: bool = False, **values: Any) -> np.ndarray:
    """augment_intensity with these parameters, every other effect off."""
    channels, axes = shape[0], len(shape) - 1
    off = {name: np.zeros(channels, np.float32) for name in Intensity.__dataclass_fields__}
    off["blur"] = np.zeros((channels, axes), np.float32)
    drawn = Intensity(**(off | {k: np.array(v, np.float32) for k, v in values.items()}))
    if way == "compiled":
        changed = image.copy()
        intensity_cpu.augment_intensity(changed if axes == 3 else changed[:, None], drawn, in_plane or axes == 2)
        return changed
    packed = augmentation.pack(drawn)
    layout = "CDHW" if axes == 3 else "CHW"

    def graph(i: Any, p: Any) -> Any:
        return (augmentation.augment_intensity(i, p, shape, in_plane),)

    return run_graph(graph, image, packed, device=way, layout=layout)


@pytest.fixture(params=[(2, 12, 16, 20), (1, 16, 20)], ids=["3D, two channels", "2D"])
def image(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, request.param).astype(np.float32)


def column(values: list[float], image: np.ndarray) -> np.ndarray:
    return np.array(values[: len(image)], np.float32).reshape(-1, *[1] * (image.ndim - 1))


@pytest.mark.parametrize("way", WAYS)
def test_nothing_drawn_changes_nothing(way: str, image: np.ndarray) -> None:
    assert np.array_equal(effect(image.shape, way, image), image)


@pytest.mark.parametrize("way", WAYS)
def test_blur_equals_scipy(way: str, image: np.ndarray) -> None:
    sigma = np.array([[0.5, 0.7, 1.0], [0.0, 0.0, 0.0]])[: len(image), : image.ndim - 1]
    blurred = effect(image.shape, way, image, blur=sigma)
    radius = tuple(int(np.ceil(3 * s)) for s in sigma[0])
    expected = ndimage.gaussian_filter(image[0], sigma[0], mode="mirror", radius=radius)
    assert np.abs(blurred[0] - expected).max() < 1e-4
    assert np.array_equal(blurred[1:], image[1:])


def test_blur_wider_than_the_patch_mirrors_again() -> None:
    image = np.random.default_rng(0).normal(size=(1, 2, 1, 5)).astype(np.float32)
    sigma = np.array([[2.0, 2.0, 2.0]])
    blurred = effect(image.shape, "compiled", image, blur=sigma)
    expected = ndimage.gaussian_filter(image[0], 2.0, mode="mirror", radius=6)
    assert np.abs(blurred[0] - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["contrast", "gamma", "gamma_inverted"])
def test_a_constant_patch_stays_constant(name: str) -> None:
    image = np.full((1, 4, 6, 5), -3.5, np.float32)
    assert np.array_equal(effect(image.shape, "compiled", image, **{name: [0.8]}), image)


@pytest.mark.parametrize("way", WAYS)
def test_brightness_multiplies(way: str, image: np.ndarray) -> None:
    bright = effect(image.shape, way, image, brightness=[1.2, 0.8][: len(image)])
    assert np.abs(bright - image * column([1.2, 0.8], image)).max() < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_contrast_stretches_about_the_mean_and_keeps_the_range(way: str, image: np.ndarray) -> None:
    stretched = effect(image.shape, way, image, contrast=[1.25, 0.75][: len(image)])
    spatial = tuple(range(1, image.ndim))
    low, high, mean = (f(image, axis=spatial, keepdims=True) for f in (np.min, np.max, np.mean))
    expected = np.clip((image - mean) * column([1.25, 0.75], image) + mean, low, high)
    assert np.abs(stretched - expected).max() < 1e-4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_keeps_mean_and_deviation(way: str, inverted: bool, image: np.ndarray) -> None:
    exponents = [0.7, 1.5]
    name = "gamma_inverted" if inverted else "gamma"
    curved = effect(image.shape, way, image, **{name: exponents[: len(image)]})
    for channel, plain, exponent in zip(curved, -image if inverted else image, exponents, strict=False):
        span = plain.max() - plain.min()
        power = ((plain - plain.min()) / span) ** exponent * span + plain.min()
        expected = (power - power.mean()) / power.std() * plain.std() + plain.mean()
        assert np.abs(channel - (-expected if inverted else expected)).max() < 1e-3
    assert curved.mean() == pytest.approx(image.mean(), abs=1e-3)
    assert curved[0].std() == pytest.approx(image[0].std(), abs=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_low_resolution_equals_torch(way: str, image: np.ndarray) -> None:
    coarse = effect(image.shape, way, image, zoom=[0.6, 0.0][: len(image)])
    tensor = torch.from_numpy(image[None, :1])
    sides = image.shape[1:]
    small = torch.nn.functional.interpolate(
        tensor, size=[int(np.floor(s * 0.6 + 0.5)) for s in sides], mode="nearest-exact"
    )
    mode = "trilinear" if image.ndim == 4 else "bilinear"
    expected = torch.nn.functional.interpolate(small, size=sides, mode=mode, align_corners=False)[0, 0].numpy()
    assert np.abs(coarse[0] - expected).max() < 1e-3
    assert np.array_equal(coarse[1:], image[1:])


@pytest.mark.parametrize("way", WAYS)
def test_low_resolution_of_anisotropic_patches_keeps_the_slices_apart(way: str) -> None:
    image = np.zeros((1, 6, 16, 20), np.float32)
    image[0, ::2] = 1
    coarse = effect(image.shape, way, image, in_plane=True, zoom=[0.5])
    assert np.abs(coarse - image).max() < 1e-5


def test_a_drawn_set_survives_packing() -> None:
    always = Settings().only("blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
    drawn = draw_intensity(generator(1), replace(always), 3, (8, 12, 16), False)
    packed, at = augmentation.pack(drawn), augmentation.unpack_slices(3, 3)
    assert packed.dtype == np.float32
    assert len(packed) == at["gamma"] + 3
    assert packed[at["contrast"] : at["contrast"] + 3].tolist() == drawn.contrast.tolist()
    assert packed[at["blur"] + 4] == drawn.blur[1, 1]
