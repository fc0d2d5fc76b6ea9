"""Instance norm and LeakyReLU as one operator: which kernel takes a tensor, and its gradient.

PyTorch computes the two apart, and reorders a channels-last tensor twice to normalise it. The operator's
kernels lie in cpu.py (numba, channels-last) and triton_kernels.py (CUDA). Both save the input and the moments
alone, and compute the normalised values again in the backward pass. To autograd, autocast and torch.compile it is
an operator like PyTorch's own.
Ulyanov et al. 2016, arXiv:1607.08022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runtime import triton

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of axes
DTYPES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
MOST_VOXELS = 2**30  # of an instance; kernels count them in 32 bits

Moments = tuple[Tensor, Tensor, Tensor]


class Cut(NamedTuple):
    """How an instance is cut into chunks: ``tile`` of its positions, the last fewer, by ``depth`` of its planes.

    Chunks are numbered tile first: chunk i is tile i // parts and part i % parts of the planes.
    """

    positions: int
    tile: int
    planes: int
    depth: int

    @property
    def chunks(self) -> int:
        return -(-self.positions // self.tile) * -(-self.planes // self.depth)


class Gathered(NamedTuple):
    """Moments of the chunks of each instance, from whoever wrote the tensor (nets/conv): it need not be read for them.

    Attributes:
        means, squares: (N * C, chunks) float32: mean of a chunk, and sum of its squared deviations from it.
        cut: what a chunk is.
    """

    means: Tensor
    squares: Tensor
    cut: Cut


def fits(x: Tensor) -> bool:
    """THE rule: whether :func:`instance_norm_act` takes this tensor; PyTorch's operators take any other.

    Channels-last on a CPU, contiguous or channels-last on CUDA where Triton can build; 2D or 3D; float32 or
    bfloat16, on CUDA float16 too.
    """
    if x.ndim not in CHANNELS_LAST or x.dtype not in DTYPES.get(x.device.type, ()) or torch.jit.is_tracing():
        return False
    if x.numel() == 0 or math.prod(x.shape[2:]) >= MOST_VOXELS:
        return False
    if x.device.type == "cuda" and not _triton_builds():
        return False
    layout = _layout(x)
    return layout == CHANNELS_LAST[x.ndim] or (x.device.type == "cuda" and layout == torch.contiguous_format)


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    negative_slope: float | None,
    gathered: Gathered | None = None,
) -> Tensor:
    """LeakyReLU of the instance norm, as ``F.leaky_relu(F.instance_norm(x, ...), negative_slope)``.

    Args:
        x: (N, C, *space), see :func:`fits`; all arithmetic is float32.
        weight, bias: (C,); both None: not affine.
        eps: added to the variance.
        negative_slope: of LeakyReLU; 0 is ReLU, None no activation.
        gathered: on CUDA, moments of ``x`` that are known already.

    Returns:
        a tensor of the shape, dtype and layout of ``x``.
    """
    apply: Any = _operator if torch.compiler.is_compiling() else _Eager.apply
    known = (None, None, ()) if gathered is None else gathered
    out: Tensor = apply(x, weight, bias, eps, 1.0 if negative_slope is None else negative_slope, *known)[0]
    return out


@torch.compiler.assume_constant_result  # torch.compile asks once, and does not look inside
def _triton_builds() -> bool:
    return triton.available()


def _layout(x: Tensor) -> torch.memory_format | None:
    """Contiguous before channels-last where a tensor, of one channel say, is both; None: neither."""
    formats = (torch.contiguous_format, CHANNELS_LAST[x.ndim])
    return next((layout for layout in formats if x.is_contiguous(memory_format=layout)), None)


def _kernels(x: Tensor) -> Any:
    """The module whose kernels run where ``x`` lies."""
    if x.device.type == "cpu":
        from nets.norm import cpu  # brings Numba, which a GPU does without

        return cpu
    from nets.norm import triton_kernels  # Triton is not everywhere

    return triton_kernels


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    slope: float,
    means: Tensor | None = None,
    squares: Tensor | None = None,
    cut: Sequence[int] = (),
) -> Moments:
    """The activation, and the mean and 1 / standard deviation of each instance, (N, C) float32."""
    known = () if means is None else (means, squares, cut)
    result: Moments = _kernels(x).forward(x, weight, bias, eps, slope, *known)
    return result


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    slope: float,
) -> Moments:
    """Gradients of ``x``, weight and bias; the latter (C,) float32, whether or not there are any."""
    result: Moments = _kernels(x).backward(gradient, x, weight, bias, mean, inverse, slope)
    return result


def _save(ctx: Any, inputs: tuple[Any, ...], output: Moments) -> None:
    x, weight, bias, _, slope, *_ = inputs
    _, mean, inverse = output
    ctx.mark_non_differentiable(mean, inverse)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, inverse)
    ctx.slope = slope


def _differentiate(
    ctx: Any, gradient: Tensor, *_: None, backward: Callable[..., Moments] = _backward
) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, inverse = ctx.saved_tensors
    gradient = gradient.contiguous(memory_format=_layout(x) or torch.contiguous_format)
    out, d_weight, d_bias = backward(gradient, x, weight, bias, mean, inverse, ctx.slope)
    sums = (None if p is None else d.to(p.dtype) for p, d in ((weight, d_weight), (bias, d_bias)))
    return (out, *sums, None, None, None, None, None)


class _Eager(torch.autograd.Function):
    """What the operator below is to torch.compile, without its cost of every call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Moments:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return _differentiate(ctx, *gradients)


# Inductor's cache on disk knows operators by name alone: other outputs need other names.
_operator = torch.library.custom_op(
    "genesis::norm_act",
    _forward,
    mutates_args=(),
    schema="(Tensor x, Tensor? weight, Tensor? bias, float eps, float slope, Tensor? means=None, Tensor? squares=None, "
    "int[] cut=[]) -> (Tensor, Tensor, Tensor)",
)
_operator_backward = torch.library.custom_op(
    "genesis::norm_act_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor gradient, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor inverse, float slope)"
    " -> (Tensor, Tensor, Tensor)",
)
_operator.register_autograd(partial(_differentiate, backward=_operator_backward), setup_context=_save)


@_operator.register_fake
def _(x: Tensor, *_: Any, **__: Any) -> Moments:
    mean = x.new_empty(x.shape[:2], dtype=torch.float32)
    return torch.empty_like(x), mean, torch.empty_like(mean)


@_operator_backward.register_fake
def _(gradient: Tensor, x: Tensor, *_: Any) -> Moments:
    sums = x.new_empty(x.shape[1], dtype=torch.float32)
    return torch.empty_like(x), sums, torch.empty_like(sums)
