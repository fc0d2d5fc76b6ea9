"""The device route computes what the compiled route does."""

import numpy as np
import pytest
import torch

from pretraining.genesis import cpu as genesis_cpu
from pretraining.genesis import device as genesis_torch
from pretraining.genesis import transforms as ge

ALWAYS = {"shuffle_probability": 1.0, "nonlinear_probability": 1.0, "paint_probability": 1.0}
ROUTES = [
    ge.GenesisSettings(),
    ge.GenesisSettings(**ALWAYS, inpaint_share=1.0, per_channel=True, shuffle_windows=500),
    ge.GenesisSettings(**ALWAYS, inpaint_share=0.0, shuffle_divisor=3, shuffle_windows=300),
    ge.GenesisSettings.semantic(),
    ge.GenesisSettings.z_scored(),
    ge.GenesisSettings(methods=()),
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
def test_both_routes_agree(settings: ge.GenesisSettings, shape: tuple[int, ...], device: str) -> None:
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    if settings.percentiles:
        x = 5 * x - 3
    seeds = [2**62 + i for i in range(len(x))]
    corrupted, target = ge.transform_batch(x, seeds, settings)
    on_device, its_target = ge.transform_on_device(torch.from_numpy(x).to(device), seeds, settings)
    assert on_device.device.type == device
    np.testing.assert_array_equal(its_target.cpu().numpy(), target)
    np.testing.assert_allclose(on_device.cpu().numpy(), corrupted, atol=5e-5 * np.ptp(x) + 1e-6)


def test_large_windows_are_shuffled_alike() -> None:
    """Windows of up to 12 voxels a side, as in a 128 cubed patch."""
    x = np.random.default_rng(1).random((24, 48, 36), dtype=np.float32)
    seeds = genesis_torch.seed_words([123, 2**60 + 5], torch.device("cpu"))
    sources = genesis_torch.shuffle_sources(seeds, x.shape, 400, (12, 12, 12)).numpy()
    for row, seed in zip(sources, (123, 2**60 + 5), strict=True):
        low, high = genesis_cpu.words(seed)
        np.testing.assert_array_equal(x.ravel()[row], genesis_cpu.shuffle(x, low, high, 400, (12, 12, 12)).ravel())


def test_owner_is_the_last_window() -> None:
    seeds = genesis_torch.seed_words([9], torch.device("cpu"))
    owner = genesis_torch.owner_map(seeds, (12, 16, 20), 40, (3, 4, 5))[0].reshape(12, 16, 20).numpy()
    sides, starts, _ = genesis_torch.window_geometry(torch.arange(40), seeds, (12, 16, 20), (3, 4, 5))
    expected = np.zeros((12, 16, 20), np.int64)
    for window, (side, start) in enumerate(zip(sides.numpy(), starts.numpy(), strict=True)):
        expected[tuple(slice(a, a + s) for a, s in zip(start, side, strict=True))] = window + 1
    np.testing.assert_array_equal(owner, expected)
    assert sides.amax(0).tolist() == [3, 4, 5] and sides.amin() == 1


def test_tables_agree() -> None:
    controls = [((0.1, 0.9, 0.8, 0.2), False), ((0.9, 0.1, 0.1, 0.4), True), None]
    tables = genesis_torch.curve_tables(controls, torch.device("cpu")).numpy()
    np.testing.assert_allclose(tables[0], genesis_cpu.curve_table(0.1, 0.9, 0.8, 0.2, False), atol=1e-6)
    np.testing.assert_allclose(tables[1], genesis_cpu.curve_table(0.9, 0.1, 0.1, 0.4, True), atol=1e-6)
    np.testing.assert_allclose(tables[2], np.linspace(0, 1, 4097), atol=1e-6)


def test_percentiles_are_numpys() -> None:
    rows = np.random.default_rng(2).normal(size=(3, 7, 9, 11)).astype(np.float32)
    ends = genesis_torch.quantile_ends(torch.from_numpy(rows), (0.1, 99.9)).numpy()
    np.testing.assert_allclose(ends, np.percentile(rows, (0.1, 99.9), axis=(1, 2, 3)).T, atol=1e-5)


def test_other_batches_are_refused() -> None:
    with pytest.raises(ge.GenesisError, match=r"found torch.float64 \(2, 1, 4, 4, 4\) and 2 seeds"):
        ge.transform_on_device(torch.zeros(2, 1, 4, 4, 4, dtype=torch.float64), [1, 2], ge.GenesisSettings())
