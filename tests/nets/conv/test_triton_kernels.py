"""The convolution's kernels equal PyTorch in double precision, on a device and under Triton's interpreter on the CPU;
and they compile for every target, into instructions of its tensor cores.

The interpreter must be chosen before Triton is imported, so the tests of the device "cpu" run in a process of
their own, which ``test_the_interpreter_agrees`` starts.
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

from nets.conv.tiles import Shape, cut_of, weight_chunk
from nets.norm.fused import Cut
from tests.compiled_kernels import TARGETS, Code, compiled

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=GPU)]
LAST = torch.channels_last_3d
SHAPES = [
    (2, 32, 3, 9, 16),  # two tiles, the second not whole
    (1, 32, 7, 5, 3),
    (1, 32, 1, 11, 12),  # one voxel thin, axis by axis
    (1, 32, 4, 1, 7),
    (1, 32, 4, 7, 1),
    (1, 64, 3, 6, 10),
    (2, 1, 5, 12, 11),  # several steps of a chunk
    (1, 2, 3, 4, 5),
    (1, 3, 2, 9, 8),
    (2, 4, 3, 5, 7),
]
FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16
CASES = [
    *((shape, HALF) for shape in SHAPES),
    *((SHAPES[i], dtype) for i in (1, 5, 6, 9) for dtype in (FLOAT, BFLOAT)),
]
DIGIT = {FLOAT: 2**-21, BFLOAT: 2**-8, HALF: 2**-11}  # half a unit in the last place, for half precision


@pytest.fixture(autouse=INTERPRETED)
def widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies a bfloat16's bits as a whole number (Triton 3.7)."""
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, d: Any, *how: Any) -> Any:
        return plain(self, *(wide(t) if t.dtype.scalar == triton.language.bfloat16 else t for t in (a, b)), d, *how)

    def wide(handle: Any) -> Any:
        float32 = (handle.data.astype("uint32") << 16).view("float32")
        return interpreter.TensorHandle(float32, triton.language.float32)

    plain = interpreter.InterpreterBuilder.create_dot
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def made(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Input, weight and gradient."""
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, (32, shape[1], 3, 3, 3), (shape[0], 32, *shape[2:]))
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    tensors[1] /= (27 * shape[1]) ** 0.5
    return [t.to(device=device, dtype=dtype, memory_format=LAST) for t in tensors]


def expected(x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and gradients in double precision, on the CPU."""
    inputs = [t.cpu().double().requires_grad_() for t in (x, weight)]
    out = F.conv3d(*inputs, padding=1)
    return [out.detach(), *torch.autograd.grad(out, inputs, gradient.cpu().double())]


def check(ours: Tensor, theirs: Tensor, digit: float) -> None:
    """Within a digit of the largest value: products are exact, sums float32, the result rounded once."""
    error = (ours.cpu().double() - theirs).abs().max() / theirs.abs().max()
    assert float(error) < 1.05 * digit


def digit_of(dtype: torch.dtype, device: str) -> float:
    cut_off = device == "cpu" and dtype == BFLOAT  # where a GPU rounds, the interpreter cuts off
    return DIGIT[dtype] * (2 if cut_off else 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_value_and_gradients_equal_pytorch(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    from nets.conv import triton_kernels as kernels

    if device == "cuda" and dtype == FLOAT:
        pytest.skip("is multiplied in TF32 there")
    x, weight, gradient = made(shape, dtype, device)
    out, d_x, d_weight = expected(x, weight, gradient)
    ours, means, squares = kernels.forward(x, weight, True)
    digit = digit_of(dtype, device)
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=LAST)
    check(ours, out, digit)
    check_moments(ours, means, squares, cut_of(Shape(*shape), x.device))
    sums = 2**-20 if device == "cpu" else 2**-14  # tensor cores cut off what they add
    check(kernels.weight_gradient(gradient, x), d_weight, sums)
    if shape[1] >= 32:
        ours = kernels.input_gradient(gradient, weight)
        assert ours.dtype == dtype and ours.is_contiguous(memory_format=LAST)
        check(ours, d_x, digit)


def check_moments(out: Tensor, means: Tensor, squares: Tensor, cut: Cut) -> None:
    """Of every chunk of what was written, itself computed in double precision."""
    values = out.cpu().double().flatten(0, 1).flatten(1).unflatten(1, (cut.planes, cut.positions))
    chunks = [
        part for tile in values.split(cut.tile, dim=2) for part in (p.flatten(1) for p in tile.split(cut.depth, dim=1))
    ]
    assert len(chunks) == cut.chunks == means.shape[1] == squares.shape[1]
    centre = torch.stack([chunk.mean(1) for chunk in chunks], 1)
    square = torch.stack([(chunk - chunk.mean(1, keepdim=True)).square().sum(1) for chunk in chunks], 1)
    torch.testing.assert_close(means.cpu().double(), centre, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(squares.cpu().double(), square, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [SHAPES[4], SHAPES[6]])
def test_the_same_input_gives_the_same_bits(shape: tuple[int, ...], device: str) -> None:
    from nets.conv import triton_kernels as kernels

    x, weight, gradient = made(shape, torch.bfloat16, device)
    first, second = ((*kernels.forward(x, weight, True), kernels.weight_gradient(gradient, x)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_weights_may_lie_as_they_like(device: str) -> None:
    from nets.conv import triton_kernels as kernels

    x, weight, gradient = made(SHAPES[3], HALF, device)
    contiguous = weight.contiguous()
    assert contiguous.stride() != weight.stride()
    assert torch.equal(kernels.forward(x, contiguous, False)[0], kernels.forward(x, weight, False)[0])
    assert torch.equal(kernels.input_gradient(gradient, contiguous), kernels.input_gradient(gradient, weight))


@pytest.mark.parametrize("device", DEVICES)
def test_the_norm_takes_over_the_moments(device: str) -> None:
    """With them it needs no pass of its own; the result is that of the plain norm."""
    from nets.conv import triton_kernels as kernels
    from nets.norm import triton_kernels as norm

    x, weight, _ = made(SHAPES[0], torch.float16, device)
    out, means, squares = kernels.forward(x, weight, True)
    cut = cut_of(Shape(*x.shape), x.device)
    ours = norm.forward(out, None, None, 1e-5, 0.01, means, squares, cut)
    theirs = norm.forward(out, None, None, 1e-5, 0.01)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours[0], theirs[0], atol=2e-3, rtol=2e-3)
    plain = F.leaky_relu(F.instance_norm(out.cpu().double()), 0.01)
    assert float((ours[0].cpu().double() - plain).abs().max()) < 2**-9


@pytest.mark.parametrize("device", DEVICES)
def test_the_operator_keeps_torch_compiles_rules(device: str) -> None:
    """Schema, shapes and layouts foretold, gradients, and what a traced graph computes."""
    from nets.conv import own

    x, weight, gradient = made((1, 32, 2, 3, 5), torch.float16, device)
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    torch.library.opcheck(own._operator, (*inputs, True), atol=1e-2, rtol=1e-2)

    def traced(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        out, gathered = own.convolve(x, weight, statistics=True)
        assert gathered is not None
        return out, gathered.means

    step = torch.compile(traced, backend="aot_eager", fullgraph=True, dynamic=False)
    results = []
    for form in (traced, step):
        out, means = form(*inputs)
        results.append([out, means, *torch.autograd.grad(out, inputs, gradient)])
    torch.compiler.reset()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def types_of(kernel: Any, dtype: str) -> dict[str, str]:
    pointers = dict.fromkeys(("x", "weight", "out", "gradient"), f"*{dtype}")
    pointers |= dict.fromkeys(("means", "squares", "parts"), "*fp32")
    return {name: pointers.get(name, "i32") for name in kernel.arg_names}


def compile_all(channels: int, dtype: str) -> Iterator[tuple[str, Code]]:
    """Every kernel that a convolution of these channels starts, for every target, as its launch would."""
    from nets.conv import triton_kernels as kernels

    few = channels <= 4
    sizes = ("planes", "height", "width", "positions", "voxels", "chunk", "tap_d", "tap_h", "tap_w", "column")
    divisible = ("x", "weight", "out", "gradient", "means", "squares", "parts", *sizes)
    common = {"IN": channels, "OUT": 32}
    for target in TARGETS:
        hopper = target >= 90
        planes = {"M": 128, "K": 32, "N": 32}
        image = {"M": kernels.STREAMED, "K": kernels.taps_of(channels)}
        back = {"IN": 32, "OUT": channels, "STATISTICS": False, "column": 1}
        work: dict[str, tuple[Any, dict[str, Any], dict[str, int]]] = {
            "forward": (
                kernels._image if few else kernels._planes,
                common | {"STATISTICS": True, "row": 1} | (image if few else planes),
                kernels.IMAGE if few else kernels.planes_options(channels, hopper=hopper),
            ),
            "weights": (
                kernels._image_weights if few else kernels._weights,
                common | ({"V": kernels.STREAMED, "K": image["K"]} if few else {"V": kernels.STREAMED, "C": 32}),
                kernels.IMAGE if few else kernels.weights_options(hopper=hopper),
            ),
        }
        if not few:
            work["input"] = (kernels._planes, back | planes, kernels.planes_options(32, hopper=hopper))
        for name, (kernel, constants, options) in work.items():
            inner = [n for n in divisible if n not in ("column", "row") or n not in constants]
            for code in compiled(
                kernel, types_of(kernel, dtype), constants, divisible=inner, targets=[target], **options
            ):
                yield name, code


TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
SHARED = {80: 163, 90: 227, 100: 227}  # KB that a program may have


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(("channels", "dtype"), [(1, "bf16"), (4, "fp16"), (32, "bf16"), (32, "fp16"), (64, "bf16")])
def test_all_kernels_compile_to_tensor_cores(channels: int, dtype: str) -> None:
    """At most four registers spill, two programs fit, and no code is a trap, which Triton makes where none can run."""
    for name, code in compile_all(channels, dtype):
        small = name == "weights" and channels == 1  # 32 rows, too few for the newer instructions
        assert (TENSOR_CORES[80] if small else TENSOR_CORES[code.target]) in code.ptx, (name, code.target)
        assert "trap;" not in code.ptx
        assert code.spilled <= 16, (name, code.target)
        assert code.shared <= SHARED[code.target] * 1024
        assert code.programs() >= 2, (name, code.target, code.registers, code.shared)
        if channels >= 32:
            assert "cp.async" in code.ptx and "0x10" in code.ptx  # 16 bytes a thread, copied ahead


@pytest.mark.skipif(INTERPRETED, reason="compiles")
def test_sides_of_one_voxel_are_compiled_in() -> None:
    from nets.conv import triton_kernels as kernels

    ones = {"planes": 1, "width": 1, "positions": 1, "depth": 1, "chunks": 1}
    constants = {"IN": 32, "OUT": 32, "STATISTICS": True, "M": 128, "K": 32, "N": 32, **ones}
    for code in compiled(kernels._planes, types_of(kernels._planes, "bf16"), constants, num_warps=4, num_stages=3):
        assert TENSOR_CORES[code.target if code.target > 80 else 80] in code.ptx


def test_chunks_keep_every_multiprocessor_busy() -> None:
    """Most of what two programs on each of an H200's multiprocessors could do is work that counts."""
    cpu = torch.device("cpu")
    for shape in [(2, 32, 128, 128, 128), (1, 64, 128, 128, 128), (2, 32, 96, 160, 160)]:
        cut = cut_of(Shape(*shape), cpu)
        programs = shape[0] * cut.chunks
        rounds = -(-programs // 264)
        assert cut.planes * shape[0] * -(-cut.positions // cut.tile) / (rounds * 264 * (cut.depth + 2)) > 0.85
    chunk = weight_chunk(Shape(2, 32, 128, 128, 128), 64, cpu)
    assert 250 < 3 * -(-2 * 128**3 // chunk) <= 264


@pytest.mark.skipif(INTERPRETED, reason="is the one that starts the interpreter")
@pytest.mark.skipif(triton.__version__ < "3.7", reason="older interpreters do not take NumPy 2.4's arrays")
def test_the_interpreter_agrees(interpret: Callable[[Path], None]) -> None:
    interpret(Path(__file__).resolve())
