"""The 3x3x3 convolution of our own as one operator: which convolutions it takes, where it is used, its gradients.

Its kernels lie in triton_kernels.py. To autograd, autocast and torch.compile it is an operator like PyTorch's own; what
it does not take goes to ``F.conv3d``. With the output come the moments that the norm behind it wants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.conv import choice
from nets.conv.tiles import CHANNELS, FEW, Shape, cut_of
from nets.norm.fused import Cut, Gathered
from runtime import triton

When = Literal["never", "auto", "always"]
HALVES = (torch.bfloat16, torch.float16)
IN = (*range(1, FEW + 1), CHANNELS, 2 * CHANNELS)
MOST_VOXELS = 2**28  # of a sample; kernels count the values of an image in 32 bits
MOST_POSITIONS = 2**24  # of a plane, at 64 channels
THREE, ONE = (3, 3, 3), (1, 1, 1)

Result = tuple[Tensor, Tensor, Tensor]


def takes(conv: nn.Module, x: Tensor, when: When) -> bool:
    """Whether :func:`convolve` is what this convolution should do: it fits, and is wanted or measured to be faster."""
    if when == "never" or not fits(conv, x):
        return False
    return when == "always" or _wins(x, conv.weight)  # type: ignore[arg-type]


def fits(conv: nn.Module, x: Tensor) -> bool:
    """THE rule: whether the kernels take this convolution of this tensor.

    3x3x3 without stride, dilation, groups and bias; 1 to 4, 32 or 64 channels to 32; on CUDA where Triton can build;
    half precision, or to be cast to it by autocast; input and weights channels-last. The weights' layout
    decides for an image of one channel, which is channels-last and contiguous at once.
    """
    if x.device.type != "cuda" or x.ndim != 5 or not isinstance(conv, nn.Conv3d) or torch.jit.is_tracing():
        return False
    if (conv.kernel_size, conv.stride, conv.dilation, conv.padding) != (THREE, ONE, ONE, ONE):
        return False
    if conv.groups != 1 or conv.bias is not None or conv.padding_mode != "zeros":
        return False
    if conv.in_channels not in IN or conv.out_channels != CHANNELS or x.shape[1] != conv.in_channels:
        return False
    shape = Shape(*x.shape)
    if not 0 < shape.voxels < MOST_VOXELS or shape.positions >= MOST_POSITIONS or shape.samples * shape.voxels >= 2**31:
        return False
    if _dtype(x) not in HALVES or conv.weight.stride(1) != 1:
        return False
    return x.is_contiguous(memory_format=torch.channels_last_3d) and _triton_builds()


def convolve(x: Tensor, weight: Tensor, *, statistics: bool) -> tuple[Tensor, Gathered | None]:
    """``F.conv3d(x, weight, padding=1)``, under autocast in its precision.

    Args:
        x: (N, C_in, D, H, W), channels-last; see :func:`fits`.
        weight: (C_out, C_in, 3, 3, 3).
        statistics: whether the moments of the output are wanted.

    Returns:
        (N, C_out, D, H, W), channels-last, in half precision with sums in float32; and the moments, if wanted.
    """
    dtype = _dtype(x)
    apply: Any = _operator if torch.compiler.is_compiling() else _Eager.apply
    x = x.to(dtype)
    out, means, squares = apply(x, weight.to(dtype), statistics)
    return out, Gathered(means, squares, Cut(*_cut(x.device, *x.shape))) if statistics else None


@torch.compiler.assume_constant_result
def _cut(device: torch.device, *shape: int) -> tuple[int, ...]:
    return tuple(cut_of(Shape(*shape), device))


def _dtype(x: Tensor) -> torch.dtype:
    """In which the convolution is computed."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@torch.compiler.assume_constant_result  # torch.compile asks once, and does not look inside
def _triton_builds() -> bool:
    return triton.available()


def _wins(x: Tensor, weight: Tensor) -> bool:
    """What was measured for such a convolution, which its first call does; not while a graph is recorded."""
    learning = torch.is_grad_enabled()
    wanted = (learning and x.requires_grad, learning and weight.requires_grad)
    work = choice.Work(tuple(x.shape), len(weight), _dtype(x), x.device.index or 0, wanted)
    if torch.compiler.is_compiling():
        return _known(work.shape, work.outputs, work.dtype, work.device, work.gradients)
    if (known := choice.known(work)) is not None:
        return known
    if torch.cuda.is_current_stream_capturing():
        return False
    x, weight = x.detach().to(work.dtype), weight.detach().to(work.dtype)
    with torch.cuda.device_of(x):
        return choice.decide(work, *(partial(_step, way, x, weight, wanted) for way in (_own, _library)))


@torch.compiler.assume_constant_result
def _known(*work: Any) -> bool:
    return bool(choice.known(choice.Work(*work)))


def _own(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = _Eager.apply(x, weight, True)[0]
    return out


def _library(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv3d(x, weight, padding=1)


def _step(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> None:
    """Forward, and backward to what wants a gradient; the output serves as its own gradient."""
    inputs = [tensor.detach().requires_grad_(wants) for tensor, wants in zip((x, weight), wanted, strict=True)]
    with torch.autocast(x.device.type, enabled=False), torch.set_grad_enabled(any(wanted)):
        out = way(*inputs)
    if any(wanted):
        torch.autograd.grad(out, [tensor for tensor in inputs if tensor.requires_grad], out.detach())


def _forward(x: Tensor, weight: Tensor, statistics: bool) -> Result:
    """The convolution, and means and squares of its chunks, (N * C_out, chunks), or (N * C_out, 0)."""
    from nets.conv import triton_kernels  # Triton is not everywhere

    return triton_kernels.forward(x, weight, statistics)


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, wants_x: bool, wants_weight: bool) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and weight; empty where not wanted. That of an image, rarely wanted, is PyTorch's."""
    from nets.conv import triton_kernels

    d_x, d_weight = x.new_empty(0), weight.new_empty(0)
    if wants_x and x.shape[1] <= FEW:
        only_x = (True, False, False)
        like = (None, ONE, ONE, ONE, False, (0, 0, 0), 1, only_x)
        d_x = torch.ops.aten.convolution_backward(gradient, x, weight, *like)[0].to(
            memory_format=torch.channels_last_3d
        )
    elif wants_x:
        d_x = triton_kernels.input_gradient(gradient, weight)
    if wants_weight:
        d_weight = torch.empty_like(weight).copy_(triton_kernels.weight_gradient(gradient, x))
    return d_x, d_weight


def _save(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    x, weight, _ = inputs
    _, means, squares = output
    ctx.mark_non_differentiable(means, squares)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight)


def _differentiate(
    ctx: Any, gradient: Tensor, *_: None, backward: Callable[..., tuple[Tensor, Tensor]] = _backward
) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, _ = ctx.needs_input_grad
    gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
    d_x, d_weight = backward(gradient, x, weight, wants_x, wants_weight)
    return d_x if wants_x else None, d_weight if wants_weight else None, None


class _Eager(torch.autograd.Function):
    """What the operator below is to torch.compile, without its cost of every call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Result:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return _differentiate(ctx, *gradients)


# Inductor's cache on disk knows operators by name alone: other outputs need other names.
_operator = torch.library.custom_op(
    "genesis::conv3",
    _forward,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, bool statistics) -> (Tensor, Tensor, Tensor)",
)
_operator_backward = torch.library.custom_op(
    "genesis::conv3_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor gradient, Tensor x, Tensor weight, bool wants_x, bool wants_weight) -> (Tensor, Tensor)",
)
_operator.register_autograd(partial(_differentiate, backward=_operator_backward), setup_context=_save)


@_operator.register_fake
def _(x: Tensor, weight: Tensor, statistics: bool) -> Result:
    out = x.new_empty((len(x), len(weight), *x.shape[2:])).to(memory_format=torch.channels_last_3d)
    chunks = cut_of(Shape(*map(int, x.shape)), x.device).chunks if statistics else 0
    means = x.new_empty((len(x) * len(weight), chunks), dtype=torch.float32)
    return out, means, torch.empty_like(means)


@_operator_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, wants_x: bool, wants_weight: bool) -> tuple[Tensor, Tensor]:
    last = x.new_empty(x.shape).to(memory_format=torch.channels_last_3d)
    return last if wants_x else x.new_empty(0), torch.empty_like(weight) if wants_weight else weight.new_empty(0)
