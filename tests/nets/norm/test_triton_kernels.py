"""The CUDA kernels equal PyTorch in value and gradient: on a device, and under Triton's interpreter on the CPU.

The interpreter must be chosen before Triton is imported, so the tests of the device "cpu" run in a process of
their own, which ``test_the_interpreter_agrees`` starts. What the interpreter would forgive the compiler does not,
which needs no GPU either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nets.norm.fused import CHANNELS_LAST, Moments, fits, instance_norm_act
from tests.compiled_kernels import Code, compiled

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=GPU)]
SHAPES = [
    (2, 3, 12, 16, 20),
    (1, 3, 26, 28, 30),  # several chunks an instance, the last not whole
    (1, 70, 3, 4, 5),  # more channels than a block
    (2, 5, 12, 16),
    (1, 1, 2, 3, 5),
]


def plain(x: Tensor, weight: Tensor | None, bias: Tensor | None, slope: float) -> Tensor:
    """In double precision."""
    wide = (None if p is None else p.double() for p in (weight, bias))
    return F.leaky_relu(F.instance_norm(x.double(), None, None, *wide, eps=1e-5), slope)


def made(shape: tuple[int, ...], *, last: bool, dtype: torch.dtype = torch.float32, mean: float = 4.0) -> list[Tensor]:
    """Input, weight, bias and gradient, the same for every device."""
    generator = torch.Generator().manual_seed(0)
    layout = CHANNELS_LAST[len(shape)] if last else torch.contiguous_format
    x, gradient = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weight, bias = torch.randn(2, shape[1], generator=generator)
    weight[0] = 0  # a scale that training can reach
    return [(2 * x + mean).contiguous(memory_format=layout), weight, bias, gradient.contiguous(memory_format=layout)]


def run(x: Tensor, weight: Tensor | None, bias: Tensor | None, gradient: Tensor, slope: float) -> list[Tensor]:
    """The kernels' activation and gradients of input, weight and bias, on the CPU."""
    from nets.norm import triton_kernels as kernels

    y, mean, inverse = kernels.forward(x, weight, bias, 1e-5, slope)
    gradients: Moments = kernels.backward(gradient, x, weight, bias, mean, inverse, slope)
    assert y.stride() == gradients[0].stride() == x.stride()
    assert y.dtype == gradients[0].dtype == x.dtype
    return [t.cpu() for t in (y, *gradients)]


def expected(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, slope: float) -> list[Tensor]:
    inputs = [t.double().requires_grad_() for t in (x, weight, bias)]
    y = plain(*inputs, slope)
    return [y.detach(), *torch.autograd.grad(y, inputs, gradient.double())]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_pytorch(shape: tuple[int, ...], last: bool, device: str) -> None:
    inputs = made(shape, last=last)
    for slope in (0.01, 1.0):
        ours = run(*(t.to(device) for t in inputs), slope)
        for a, b in zip(ours, expected(*inputs, slope), strict=True):
            torch.testing.assert_close(a.double(), b, atol=2e-5 * max(1.0, float(b.abs().max())), rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
def test_without_weight_and_bias(last: bool, device: str) -> None:
    x, _, _, gradient = made(SHAPES[0], last=last)
    ours = run(x.to(device), None, None, gradient.to(device), 0.0)
    theirs = expected(x, torch.ones(3), torch.zeros(3), gradient, 0.0)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("dtype", "digit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_once(dtype: torch.dtype, digit: float, last: bool, device: str) -> None:
    inputs = made(SHAPES[1], last=last, dtype=dtype)
    y, gradient, *sums = run(*(t.to(device) for t in inputs), 0.01)
    theirs = expected(*inputs, 0.01)
    if device == "cpu" and dtype == torch.bfloat16:
        digit *= 2  # the interpreter cuts bfloat16 off where a GPU rounds it
    assert float(((y.double() - theirs[0]).abs() / (theirs[0].abs() + 1e-3)).max()) < 1.01 * digit
    assert float(((gradient.double() - theirs[1]).abs() / (theirs[1].abs() + 1e-2)).max()) < 1.01 * digit
    for a, b in zip(sums, theirs[2:], strict=True):  # are float32
        torch.testing.assert_close(a.double(), b, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
def test_a_large_mean_costs_no_digits(last: bool, device: str) -> None:
    x, weight, bias, gradient = (t.to(device) for t in made(SHAPES[1], last=last, mean=3000.0))
    y = run(x, weight, bias, gradient, 1.0)[0]
    assert float((y.double() - plain(x, weight, bias, 1.0).cpu()).abs().max()) < 1e-3  # 3000 has 2e-4 in float32


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_not_a_number_stays_none(device: str) -> None:
    x, weight, bias, gradient = (t.to(device) for t in made(SHAPES[0], last=True))
    x[1, 2, 3, 4, 5] = float("nan")
    y = run(x, weight, bias, gradient, 0.01)[0]
    assert bool(y[1, 2].isnan().all())
    assert int(y.isnan().sum()) == y[0, 0].numel()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_the_operator_takes_it_on_a_device(last: bool, compiled: bool) -> None:
    """At 128 cubed, through autograd and autocast, plain and compiled."""
    x, weight, bias, gradient = (t.cuda() for t in made((2, 32, 128, 128, 128), last=last, dtype=torch.bfloat16))
    assert fits(x)
    assert not fits(x.double())
    assert not fits(x.transpose(2, 3))

    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return instance_norm_act(x, weight, bias, eps=1e-5, negative_slope=0.01)

    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    y = (torch.compile(step, fullgraph=True, dynamic=False) if compiled else step)(*inputs)
    assert y.dtype == torch.bfloat16
    assert y.stride() == x.stride()
    ours = [y.detach(), *torch.autograd.grad(y, inputs, gradient)]
    for a, b in zip(ours, expected(*inputs, gradient, 0.01), strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 2**-8


def compile_for(kernel: Any, x: Tensor, dtype: str, *, affine: bool) -> Iterator[Code]:
    """The kernel for every target, its arguments specialised as a launch on ``x`` would."""
    from nets.norm.triton_kernels import _walk

    walk = _walk(x)
    names = "voxels channels chunk chunks sample_stride channel_stride voxel_stride".split()
    sizes = dict(zip(names, walk.arguments, strict=True))
    sizes |= {"positions": walk.voxels, "tile": walk.chunk, "planes": 1, "depth": 1}
    blocks = walk.block | {"CHUNKS": triton.next_power_of_2(sizes["chunks"])}
    constants: dict[str, int | None] = {}
    types: dict[str, str] = {}
    for name in kernel.arg_names:
        if name in blocks or sizes.get(name) == 1 or (name in ("weight", "bias") and not affine):
            constants[name] = (blocks | sizes).get(name)
        elif name in ("slope", "eps"):
            types[name] = "fp32"
        elif name in sizes:
            types[name] = "i64" if sizes[name] >= 2**31 else "i32"
        else:
            types[name] = "*" + (dtype if name in ("x", "out", "gradient") else "fp32")
    return compiled(kernel, types, constants, divisible=[n for n in kernel.arg_names if sizes.get(n, 0) % 16 == 0])


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(
    ("shape", "last", "dtype", "affine"),
    [
        ((2, 32, 128, 128, 128), True, "bf16", True),
        ((2, 32, 128, 128, 128), False, "fp32", True),
        ((8, 48, 512, 512, 512), True, "fp16", False),  # more than 2**31 values
        ((1, 1, 1, 1, 2), False, "bf16", True),  # whose strides and counts are compiled in
    ],
)
def test_all_kernels_compile(shape: tuple[int, ...], last: bool, dtype: str, affine: bool) -> None:
    """For every target, with 16 bytes a thread and load; of the registers at most four are spilled."""
    from nets.norm import triton_kernels as kernels

    x = torch.empty(shape, device="meta").to(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
    for kernel in [kernels._moments, kernels._normalise, kernels._gradient_sums, kernels._gradient, kernels._join]:
        codes = list(compile_for(kernel, x, dtype, affine=affine))
        assert [code.target for code in codes] == [80, 90, 100]
        for code in codes:
            assert code.spilled <= 16
            assert x.numel() == 2 or kernel is kernels._join or "ld.global.v4.b32" in code.ptx


def test_large_instances_keep_every_multiprocessor_busy() -> None:
    from nets.norm.triton_kernels import _walk

    for shape in [(2, 32, 128, 128, 128), (1, 1, 128, 128, 128), (2, 320, 4, 4, 4)]:
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            walk = _walk(torch.empty(shape, device="meta").to(memory_format=layout))
            voxels, _, chunk, chunks = walk.arguments[:4]
            assert (chunks - 1) * chunk < voxels <= chunks * chunk
            assert chunks == 1 if voxels == 64 else 200 < walk.grid[0] * walk.grid[1] <= 2048


@pytest.mark.skipif(INTERPRETED, reason="is the one that starts the interpreter")
@pytest.mark.skipif(triton.__version__ < "3.7", reason="older interpreters do not take NumPy 2.4's arrays")
def test_the_interpreter_agrees(interpret: Callable[[Path], None]) -> None:
    interpret(Path(__file__).resolve())
