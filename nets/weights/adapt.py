"""Fitting a trained kernel to a layer of another shape.

The rules, and what each keeps:

- *A smaller kernel* (3x3x3 to 1x3x3, 7x7x7 to 3x3x3): taps that fall off are added to the nearest tap
  that stays, so the response to an input constant along that axis is the same.
- *A larger kernel* (1x3x3 to 3x3x3): the old kernel sits in the centre, zeros around it, so the response
  to every input is the same; training decides whether neighbours matter.
- *3D to 2D*: the sum over depth, for the reason given for smaller kernels.
- *2D to 3D*: the kernel is repeated along depth and divided by its length: the response to an input
  constant along depth is the same, and depth is used from the first step.
- *Up-samplings* (kernel = stride): an axis that is no longer up-sampled takes the mean of its taps, one
  that now is repeats its tap; both keep the response to a constant.
- *The image's channels* (1 to n, n to 1, n to m): the kernel summed over its inputs, divided by the new
  number of them: equal channels give the old response, and no channel is preferred.
- *Fewer channels inside the network*: the first ones. Every layer keeps the same ones, so what is kept
  stays connected, also across skips and residual sums.
- *More channels inside*: the old network lives on inside the new one. Old outputs see the new inputs
  with weight 0, so they compute what they did; new outputs keep their random start.
- *A decoder's first convolution* sees up-sampled channels and, behind them, the skip's: each part is
  fitted on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def adapt_conv(
    source: Tensor, target: Tensor, *, image: bool = False, parts: Sequence[tuple[int, int]] | None = None
) -> tuple[Tensor, int]:
    """A convolution kernel in the shape of another.

    Args:
        source: trained, (out, in, *kernel), 2D or 3D.
        target: what the layer holds now, (out, in, *kernel); new outputs keep its values.
        image: its input is the image.
        parts: where the input is a concatenation, (source's, target's) channels of each part.

    Returns:
        The kernel, and how many of its numbers the source decides: all those of the old outputs, with
        the zeros that keep them what they were.
    """
    source = _fit_kernel(_fit_dim(source, target.ndim - 2, up=False), target.shape[2:])
    if image and source.shape[1] != target.shape[1]:
        source = source.sum(1, keepdim=True).expand(-1, target.shape[1], *target.shape[2:]) / target.shape[1]
        parts = None
    out = min(source.shape[0], target.shape[0])
    fitted = target.detach().clone()
    fitted[:out] = 0.0
    from_source = from_target = 0
    for theirs, ours in parts or [(source.shape[1], target.shape[1])]:
        both = min(theirs, ours)
        fitted[:out, from_target : from_target + both] = source[:out, from_source : from_source + both]
        from_source, from_target = from_source + theirs, from_target + ours
    return fitted, out * math.prod(target.shape[1:])


def adapt_up(source: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """A transposed convolution, (in, out, *kernel), in the shape of another; returns as :func:`adapt_conv`."""
    source = _fit_dim(source, target.ndim - 2, up=True)
    for axis, side in enumerate(target.shape[2:], start=2):
        if source.shape[axis] != side:
            repeats = [side if i == axis else 1 for i in range(source.ndim)]
            source = source.mean(axis, keepdim=True).repeat(repeats)
    below, out = min(source.shape[0], target.shape[0]), min(source.shape[1], target.shape[1])
    fitted = target.detach().clone()
    fitted[:, :out] = 0.0
    fitted[:below, :out] = source[:below, :out]
    return fitted, target.shape[0] * out * math.prod(target.shape[2:])


def adapt_vector(source: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """One number a channel: the first channels; new ones keep their start."""
    both = min(len(source), len(target))
    fitted = target.detach().clone()
    fitted[:both] = source[:both]
    return fitted, both


def _fit_dim(kernel: Tensor, dim: int, *, up: bool) -> Tensor:
    """2D <-> 3D; depth is the first spatial axis."""
    if kernel.ndim - 2 > dim:
        return kernel.mean(2) if up else kernel.sum(2)
    if kernel.ndim - 2 < dim:
        depth = 1 if up else min(kernel.shape[2:])  # a 2D kernel of 3x3 becomes 3x3x3, a 1x1 one 1x1x1
        return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    return kernel


def _fit_kernel(kernel: Tensor, sides: Sequence[int]) -> Tensor:
    for axis, side in enumerate(sides, start=2):
        margin = (kernel.shape[axis] - side) // 2
        if margin == 0:
            continue
        shape = list(kernel.shape)
        shape[axis] = side
        fitted = kernel.new_zeros(shape)
        taps = torch.arange(kernel.shape[axis], device=kernel.device) - margin
        kernel = fitted.index_add_(axis, taps.clamp(0, side - 1) if margin > 0 else taps, kernel)
    return kernel
