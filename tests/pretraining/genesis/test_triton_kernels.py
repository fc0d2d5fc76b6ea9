"""The CUDA kernels of the Genesis transformations equal genesis_torch.py, under Triton's interpreter on the CPU.

The interpreter must be chosen before Triton is imported, so it runs in a process of its own. What it would forgive
the compiler does not: it compiles the kernels for an H200, for which it needs no GPU. test_genesis_torch.py runs
them on a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretraining.genesis import device as genesis_torch
from pretraining.genesis.device import CurveSpec, Paint

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CURVES: list[CurveSpec | None] = [((0.1, 0.9, 0.8, 0.2), False), None, ((0.9, 0.1, 0.1, 0.4), True), None]
BLOCKS = (((2, 3, 4), (6, 9, 9)), ((4, 4, 10), (9, 12, 18)))
PAINTINGS: list[Paint | None] = [(BLOCKS, False, 7), (BLOCKS, True, 2**62 + 1), None, None]


@pytest.mark.skipif(not INTERPRETED, reason="runs under the interpreter")
@pytest.mark.parametrize("windows", [40, 400])
def test_cpu_rows_are_corrupted_alike(windows: int) -> None:
    from pretraining.genesis import triton_kernels as genesis_triton

    rows = torch.rand(4, 12, 16, 20, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([[0.0, 1.0], [0.1, 0.9], [0.0, 0.5], [0.2, 0.2]])
    seeds = [2**60 + 5, None, 3, 9]
    given = (rows, ends, seeds, windows, (3, 4, 5), CURVES, PAINTINGS)
    names = ("rows", "ends", "shuffle_seeds", "windows", "longest", "curves", "paintings")
    expected = genesis_torch.corrupt(**dict(zip(names, given, strict=True)))
    torch.testing.assert_close(genesis_triton.corrupt(*given), expected, atol=1e-6, rtol=0)
    assert float((expected != rows).float().mean()) > 0.2


@pytest.mark.skipif(INTERPRETED, reason="is the one that starts the interpreter")
@pytest.mark.skipif(triton.__version__ < "3.7", reason="older interpreters do not take NumPy 2.4's arrays")
def test_the_interpreter_agrees(interpret: Callable[[Path], None]) -> None:
    interpret(Path(__file__).resolve())


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize("name", ["_own", "_finish"])
def test_all_kernels_compile_for_hopper(name: str) -> None:
    from pretraining.genesis import triton_kernels as genesis_triton

    kernel: Any = getattr(genesis_triton, name)
    constants = {"CHUNK": 128, "K": 5, "STEPS": 4096, "BLOCK": 1024}
    floats, wide = ("image", "out", "ends", "tables"), ("seeds", "noise_seeds", "rows")
    pointers = (*floats, *wide, "owner", "bent", "boxes", "kinds")
    signature = {}
    for argument in kernel.arg_names:
        kind = "fp32" if argument in floats else "i64" if argument in wide else "i32"
        signature[argument] = "constexpr" if argument in constants else "*" + kind if argument in pointers else "i32"
    values = {(i,): constants[argument] for i, argument in enumerate(kernel.arg_names) if argument in constants}
    source = triton.compiler.ASTSource(kernel, signature, values)
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    assert f".entry {name}" in triton.compile(source, target=target).asm["ptx"]
