"""The CUDA kernels of the Genesis transformations equal cpu.py, under Triton's interpreter on the CPU.

The interpreter must be chosen before Triton is imported, so it runs in a process of its own. What it would forgive
the compiler does not, which needs no GPU either. test_device.py runs the kernels on a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loading.hashing import hash_word, words
from pretraining.genesis import cpu
from pretraining.genesis.device import corrupt
from pretraining.genesis.packing import pack
from pretraining.genesis.sampling import Curve, Drawn, DrawnChannel, GenesisSettings, Painting
from tests.compiled_kernels import compiled

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
under_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
CURVES = [Curve((0.1, 0.9, 0.8, 0.2), False), None, Curve((0.9, 0.1, 0.1, 0.4), True), None]
BOXES = ((2, 3, 4, 6, 9, 9), (4, 4, 10, 9, 12, 18))
PAINTINGS = [Painting(BOXES, False, 7), Painting(BOXES, True, 2**62 + 1), None, None]
SEEDS = [2**60 + 5, None, 3, 9]


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes one program after the other."""
    if INTERPRETED:
        monkeypatch.setattr("pretraining.genesis.triton_kernels._FINISHED", 4096)


def packed(seeds: list[int | None], curves: list[Any], paintings: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [DrawnChannel(*row) for row in zip(seeds, curves, paintings, strict=True)]
    _, channels, tables = pack(Drawn((), None, tuple(rows)), GenesisSettings())
    return torch.from_numpy(channels), torch.from_numpy(tables)


@under_the_interpreter
@pytest.mark.parametrize("windows", [40, 400])
def test_cpu_rows_are_corrupted_alike(windows: int) -> None:
    from pretraining.genesis import triton_kernels

    rows = torch.rand(4, 12, 16, 20, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([[0.0, 1.0], [0.1, 0.9], [0.0, 0.5], [0.2, 0.2]])
    channels, tables = packed(SEEDS, CURVES, PAINTINGS)
    expected = corrupt(rows, ends, channels, tables, windows=windows, longest=(3, 4, 5))
    found = triton_kernels.corrupt(rows, ends, channels, tables, windows, (3, 4, 5))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert float((expected != rows).float().mean()) > 0.2


@under_the_interpreter
def test_cpu_large_windows_are_shuffled_alike() -> None:
    """Windows of up to 12 voxels a side, as in a 128 cubed patch."""
    from pretraining.genesis import triton_kernels

    x = np.random.default_rng(1).random((24, 48, 36), dtype=np.float32)
    rows, ends = torch.from_numpy(np.stack([x, x])), torch.tensor([[0.0, 1.0]] * 2)
    channels, tables = packed([123, 2**60 + 5], [None, None], [None, None])
    found = triton_kernels.corrupt(rows, ends, channels, tables, 60, (12, 12, 12)).numpy()
    for row, seed in zip(found, (123, 2**60 + 5), strict=True):
        low, high = words(seed)
        np.testing.assert_array_equal(row, cpu.shuffle(x, low, high, 60, (12, 12, 12)))


@under_the_interpreter
def test_cpu_owner_is_the_last_window() -> None:
    from pretraining.genesis import triton_kernels

    channels, _ = packed([9], [None], [None])
    shape, longest = (12, 16, 20), (3, 4, 5)
    owner = torch.zeros(1, 12 * 16 * 20, dtype=torch.int32)
    triton_kernels._own[(40, 1)](owner, channels, *shape, *longest, K=5, CHUNK=128)
    expected, sides = np.zeros(shape, np.int64), []
    for window in range(40):
        draws = [hash_word(3 * window + axis, *words(9)) for axis in range(3)]
        places = [cpu._side_and_start(*each) for each in zip(draws, longest, shape, strict=True)]
        expected[tuple(slice(start, start + side) for side, start in places)] = window + 1
        sides.append([side for side, _ in places])
    np.testing.assert_array_equal(owner.reshape(shape).numpy(), expected)
    assert np.max(sides, 0).tolist() == [3, 4, 5] and np.min(sides) == 1


@under_the_interpreter
def test_cpu_noise_is_the_compiled_one() -> None:
    from pretraining.genesis import triton_kernels

    halves = np.array([words(seed) for seed in (4, 2**63 - 1)], np.uint32)
    found = triton_kernels.uniform_noise(torch.from_numpy(halves.view(np.int32)), 3000).numpy()
    np.testing.assert_array_equal(found, [cpu.uniform_noise(3000, *row) for row in halves])


@pytest.mark.skipif(INTERPRETED, reason="is the one that starts the interpreter")
@pytest.mark.skipif(triton.__version__ < "3.7", reason="older interpreters do not take NumPy 2.4's arrays")
def test_the_interpreter_agrees(interpret: Callable[[Path], None]) -> None:
    interpret(Path(__file__).resolve())


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize("name", ["_own", "_finish", "_noise"])
def test_all_kernels_compile_and_keep_a_multiprocessor_busy(name: str) -> None:
    """Nothing is spilled, and at least half of the threads that a multiprocessor can hold find registers."""
    from pretraining.genesis import triton_kernels as kernels

    kernel: Any = getattr(kernels, name)
    finishing = name == "_finish"
    block = kernels._FINISHED if finishing else kernels._BLOCK
    constants = {"CHUNK": kernels._CHUNK, "K": 5, "STEPS": cpu.TABLE_STEPS, "BLOCK": block}
    floats = ("image", "ends", "tables", *(["out"] if name != "_own" else []))
    pointers = (*floats, "owner", "channels", "seeds")
    types = {n: ("*fp32" if n in floats else "*i32") if n in pointers else "i32" for n in kernel.arg_names}
    used = {n: value for n, value in constants.items() if n in kernel.arg_names}
    multiples = (*pointers, "depth", "height", "width", "size")  # of 128 cubed
    warps = {"num_warps": kernels._WARPS} if finishing else {}
    targets = []
    for code in compiled(kernel, types, used, divisible=multiples, **warps):
        assert f".entry {name}" in code.ptx
        assert code.spilled == 0
        assert code.programs() * code.threads >= 1024
        targets.append(code.target)
    assert targets == [80, 90, 100]
