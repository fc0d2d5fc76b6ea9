"""The device form computes what the compiled form does.

On the CPU this looks at packing, mirroring, deformation and percentiles; the kernels of Triton are compared in
test_triton_kernels.py, and here on a GPU.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch

from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.device import flip, quantile_ends, smoothing_on, transform_on_device, uniform_noise
from pretraining.genesis.sampling import TRANSFORMATIONS, GenesisError, GenesisSettings
from pretraining.genesis.transforms import apply_flip, elastic_noise
from pretraining.semantic.transformations import SemanticTransformations
from tests.pretended_gpu import pretended_gpu
from tests.pretraining.corrupted import Z_SCORED, transform_batch

ALWAYS = {"shuffle_probability": 1.0, "nonlinear_probability": 1.0, "paint_probability": 1.0}
ROUTES = [
    GenesisSettings(),
    GenesisSettings(**ALWAYS, inpaint_share=1.0, per_channel=True, shuffle_windows=500),
    GenesisSettings(**ALWAYS, inpaint_share=0.0, shuffle_divisor=3, shuffle_windows=300),
    SemanticTransformations(),
    GenesisSettings(**Z_SCORED),
    GenesisSettings(transformations=()),
]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(3, 2, 12, 16, 20), (2, 1, 20, 33, 41), (4, 2, 40, 24), (2, 1, 1, 1, 1)])
@pytest.mark.parametrize("settings", ROUTES)
def test_both_routes_agree(settings: GenesisSettings, shape: tuple[int, ...], device: str) -> None:
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    if settings.percentiles:
        x = 5 * x - 3
    seeds = [2**62 + i for i in range(len(x))]
    corrupted, target = transform_batch(x, seeds, settings)
    on_device, its_target = transform_on_device(torch.from_numpy(x).to(device), seeds, settings)
    assert on_device.device.type == device
    np.testing.assert_array_equal(its_target.cpu().numpy(), target)
    np.testing.assert_allclose(on_device.cpu().numpy(), corrupted, atol=5e-5 * np.ptp(x) + 1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", ROUTES)
def test_nothing_waits_for_the_device(settings: GenesisSettings) -> None:
    corruption = GenesisCorruption(settings)
    batch = torch.rand(2, 1, 12, 16, 20, device="cuda")
    drawn = zip(*(corruption.draw((1, 12, 16, 20), seed) for seed in (1, 2)), strict=True)
    arrays = [torch.from_numpy(np.stack(each)).cuda() for each in drawn]
    corruption.apply_device(batch, arrays)  # builds the kernels, moves what is kept
    torch.cuda.set_sync_debug_mode("error")
    try:
        corruption.apply_device(batch, arrays)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
def test_each_patch_is_mirrored_along_its_own_axes(device: str) -> None:
    x = np.random.default_rng(3).random((4, 2, 5, 6, 7), dtype=np.float32)
    axes = [(), (0,), (1, 2), (0, 1, 2)]
    marks = torch.tensor([[axis in own for axis in range(3)] for own in axes], dtype=torch.int32, device=device)
    mirrored = flip(torch.from_numpy(x).to(device), marks).cpu().numpy()
    np.testing.assert_array_equal(
        mirrored, np.stack([apply_flip(patch, own) for patch, own in zip(x, axes, strict=True)])
    )


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_the_compiled_one(device: str) -> None:
    seeds = [5, 2**62 + 9]
    words = np.array([[seed & 0xFFFFFFFF, seed >> 32] for seed in seeds], np.uint32).view(np.int32)
    noise = 2 * uniform_noise(torch.from_numpy(words).to(device), 2 * 3 * 4 * 5).cpu().numpy() - 1
    np.testing.assert_array_equal(noise.reshape(2, 2, 3, 4, 5), [elastic_noise((3, 4, 5), seed) for seed in seeds])


@pytest.mark.parametrize("device", DEVICES)
def test_percentiles_are_numpys(device: str) -> None:
    rows = np.random.default_rng(2).normal(size=(3, 7, 9, 11)).astype(np.float32)
    ends = quantile_ends(torch.from_numpy(rows).to(device), (0.1, 99.9)).cpu().numpy()
    np.testing.assert_allclose(ends, np.percentile(rows, (0.1, 99.9), axis=(1, 2, 3)).T, atol=1e-5)


def test_other_batches_are_refused() -> None:
    with pytest.raises(GenesisError, match=r"found torch.float64 \(2, 1, 4, 4, 4\) and 2 seeds"):
        transform_on_device(torch.zeros(2, 1, 4, 4, 4, dtype=torch.float64), [1, 2], GenesisSettings())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Triton's kernels as their launches alone: no fake tensor can be given to them."""
    kernels = pytest.importorskip("pretraining.genesis.triton_kernels")
    launched: list[str] = []

    class Launched:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
            assert all(side > 0 for side in grid)
            return lambda *tensors, **_: launched.append(self.name)

    for name in ("_own", "_finish", "_noise"):
        monkeypatch.setattr(kernels, name, Launched(name))
    smoothing_on.cache_clear()
    return launched


@pytest.mark.parametrize("percentiles", [None, (0.1, 99.9)])
@pytest.mark.parametrize("shape", [(2, 2, 12, 16, 20), (2, 1, 16, 20)])
def test_no_combination_of_transformations_waits_for_the_device(
    launches: list[str], shape: tuple[int, ...], percentiles: tuple[float, float] | None
) -> None:
    chosen = [each for n in range(len(TRANSFORMATIONS) + 1) for each in combinations(TRANSFORMATIONS, n)]
    with pretended_gpu() as gpu:
        corrupt_as(TRANSFORMATIONS, shape, percentiles)  # moves what is made once and kept
        with gpu.busy():
            for names in chosen:
                launches.clear()
                image, target = corrupt_as(names, shape, percentiles)
                assert image.shape == target.shape == shape
                assert image.device == target.device == torch.device("cuda", 0)
                assert launches == ["_noise"] * ("elastic" in names) + ["_own"] * ("shuffle" in names) + ["_finish"]
        assert not gpu.copied
    smoothing_on.cache_clear()


def corrupt_as(
    names: tuple[str, ...], shape: tuple[int, ...], percentiles: tuple[float, float] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch on the pretended GPU, its parameters shaped as the workers draw them."""
    settings = GenesisSettings(transformations=names, percentiles=percentiles, per_channel=len(names) % 2 == 0)
    corruption = GenesisCorruption(settings)
    kinds = {"int32": torch.int32, "float32": torch.float32}
    arrays = corruption.draw(shape[1:], 5)
    drawn = [torch.empty(shape[0], *a.shape, dtype=kinds[str(a.dtype)], device="cuda") for a in arrays]
    return corruption.apply_device(torch.empty(shape, device="cuda"), drawn)
