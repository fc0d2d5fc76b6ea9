"""The CUDA kernels of fused.py, in Triton; contiguous and channels-last tensors alike.

A program walks over a chunk of the voxels of one instance (contiguous) or of up to 64 instances of a sample
that lie side by side (channels-last), so that neighbouring threads read neighbouring values; a large
instance is cut into so many chunks that every multiprocessor works. Forward reads the input twice and writes
once, backward reads input and gradient twice and writes once. Nothing waits for the host.

Moments are Welford's in each lane, joined over lanes and then over chunks as by Chan et al. (1983,
doi:10.1080/00031305.1983.10483115), so that no difference of large squares loses digits. All sums are
joined in a fixed order: the same input gives the same bits.

Instances are numbered sample * channels + channel. Blocks are (V voxels, C channels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # values of a program's step, 16 a thread
CHANNELS = 64  # of a channels-last block at most: 128 bytes of bfloat16
STEPS = 4  # of a chunk at least; a program of fewer is not worth its start
PROGRAMS = 2048  # wanted; an H200's 132 multiprocessors hold up to 16 each


class _Walk(NamedTuple):
    """How programs share a tensor: the grid is (blocks of instances, chunks of voxels)."""

    grid: tuple[int, int]
    voxels: int
    chunk: int
    arguments: tuple[int, ...]  # voxels, channels, chunk, chunks; strides of sample, channel and voxel
    block: dict[str, int]


def _walk(x: Tensor) -> _Walk:
    n, channels = x.shape[:2]
    voxels = math.prod(x.shape[2:])
    side_by_side = not x.is_contiguous()
    block_c = min(triton.next_power_of_2(channels), CHANNELS) if side_by_side else 1
    block_v = TILE // block_c
    blocks = n * triton.cdiv(channels, block_c)
    wanted = max(1, min(PROGRAMS // blocks, voxels // (STEPS * block_v)))
    chunk = block_v * triton.cdiv(voxels, block_v * wanted)
    chunks = triton.cdiv(voxels, chunk)
    strides = (1, channels) if side_by_side else (voxels, 1)
    arguments = (voxels, channels, chunk, chunks, channels * voxels, *strides)
    return _Walk((blocks, chunks), voxels, chunk, arguments, {"V": block_v, "C": block_c})


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    slope: float,
    means: Tensor | None = None,
    squares: Tensor | None = None,
    cut: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, mean and 1 / standard deviation; see fused.py. ``x`` is contiguous or channels-last."""
    walk = _walk(x)
    out = torch.empty_like(x)
    mean = x.new_empty(x.shape[:2], dtype=torch.float32)
    inverse = torch.empty_like(mean)
    with torch.cuda.device_of(x):
        if means is None or squares is None:  # nobody gathered them before
            cut = (walk.voxels, walk.chunk, 1, 1)
            means = x.new_empty((mean.numel(), walk.grid[1]), dtype=torch.float32)
            squares = torch.empty_like(means)
            _moments[walk.grid](x, means, squares, *walk.arguments, **walk.block)
        chunks = means.shape[1]
        _join[(mean.numel(),)](means, squares, mean, inverse, *cut, chunks, eps, CHUNKS=triton.next_power_of_2(chunks))
        _normalise[walk.grid](x, weight, bias, mean, inverse, out, *walk.arguments, slope, **walk.block)
    return out, mean, inverse


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, weight and bias; see fused.py. ``gradient`` has the layout of ``x``."""
    walk = _walk(x)
    out = torch.empty_like(x)
    parts = x.new_empty((2, mean.numel(), walk.grid[1]), dtype=torch.float32)
    moments = weight, bias, mean, inverse
    with torch.cuda.device_of(x):
        _gradient_sums[walk.grid](x, gradient, *moments, parts[0], parts[1], *walk.arguments, slope, **walk.block)
        products, sums = (part.sum(1).view_as(mean) for part in parts)
        _gradient[walk.grid](x, gradient, *moments, products, sums, out, *walk.arguments, slope, **walk.block)
    return out, products.sum(0), sums.sum(0)


@triton.jit
def _place(channels, chunk, voxels, sample_stride, channel_stride, voxel_stride, V: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """This program's instances (C,), which of them exist, its voxels' first and end, the offset of its first value
    in 64 bits, and the offsets of a block from there (V, C) in 32."""
    blocks = tl.cdiv(channels, C)
    sample = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * C
    first = tl.program_id(1) * chunk
    end = tl.minimum(first + chunk, voxels)
    c = tl.arange(0, C)
    start = sample.to(tl.int64) * sample_stride + channel.to(tl.int64) * channel_stride
    start += first.to(tl.int64) * voxel_stride
    offsets = tl.arange(0, V)[:, None] * voxel_stride + c[None, :] * channel_stride
    return sample * channels + channel + c, channel + c < channels, first, end, start, offsets


@triton.jit
def _line(weight, bias, mean, inverse, instances, exist, channels):  # type: ignore[no-untyped-def]
    """Mean, 1 / standard deviation, scale and shift (C,): the norm is (x - mean) * scale + shift."""
    centre = tl.load(mean + instances, mask=exist, other=0.0)
    inverses = tl.load(inverse + instances, mask=exist, other=0.0)
    scale = inverses
    shift = tl.zeros_like(inverses)
    if weight is not None:
        scale = inverses * tl.load(weight + instances % channels, mask=exist, other=0.0).to(tl.float32)
    if bias is not None:
        shift = tl.load(bias + instances % channels, mask=exist, other=0.0).to(tl.float32)
    return centre, inverses, scale, shift


@triton.jit
def _moments(  # type: ignore[no-untyped-def]
    x, means, squares,
    voxels, channels, chunk, chunks, sample_stride, channel_stride, voxel_stride,
    V: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk, (instances, chunks) each."""
    instances, exist, first, end, start, offsets = _place(
        channels, chunk, voxels, sample_stride, channel_stride, voxel_stride, V, C
    )
    v = tl.arange(0, V)
    at = x + start
    mean = tl.zeros([V, C], tl.float32)
    square = tl.zeros([V, C], tl.float32)
    steps = 0.0
    for voxel in range(first, end, V):
        inside = (voxel + v < end)[:, None] & exist[None, :]
        value = tl.load(at + offsets, mask=inside, other=0.0).to(tl.float32)
        steps += 1.0
        off = tl.where(inside, value - mean, 0.0)
        mean += off * (1.0 / steps)
        square += off * (value - mean)
        at += V * voxel_stride
    counts = ((end - first - v + V - 1) // V).to(tl.float32)[:, None]  # of a lane
    whole = tl.sum(mean * counts, 0) / (end - first).to(tl.float32)
    off = mean - whole[None, :]
    tl.store(means + instances * chunks + tl.program_id(1), whole, mask=exist)
    tl.store(squares + instances * chunks + tl.program_id(1), tl.sum(square + counts * off * off, 0), mask=exist)


@triton.jit
def _join(  # type: ignore[no-untyped-def]
    means, squares, mean, inverse, positions, tile, planes, depth, chunks, eps, CHUNKS: tl.constexpr
):  # fmt: skip
    """Mean and 1 / standard deviation of an instance, from those of its chunks; see fused.Cut."""
    instance = tl.program_id(0)
    i = tl.arange(0, CHUNKS)
    exist = i < chunks
    parts = tl.cdiv(planes, depth)
    counts = tl.minimum(positions - i // parts * tile, tile) * tl.minimum(planes - i % parts * depth, depth)
    counts = tl.where(exist, counts, 0).to(tl.float32)
    centres = tl.load(means + instance * chunks + i, mask=exist, other=0.0)
    total = tl.sum(counts, 0)
    whole = tl.sum(centres * counts, 0) / total
    off = centres - whole
    square = tl.load(squares + instance * chunks + i, mask=exist, other=0.0)
    variance = tl.sum(square + counts * off * off, 0) / total
    tl.store(mean + instance, whole)
    tl.store(inverse + instance, 1.0 / tl.sqrt_rn(variance + eps))


@triton.jit
def _normalise(  # type: ignore[no-untyped-def]
    x, weight, bias, mean, inverse, out,
    voxels, channels, chunk, chunks, sample_stride, channel_stride, voxel_stride, slope,
    V: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    instances, exist, first, end, start, offsets = _place(
        channels, chunk, voxels, sample_stride, channel_stride, voxel_stride, V, C
    )
    centre, _, scale, shift = _line(weight, bias, mean, inverse, instances, exist, channels)
    v = tl.arange(0, V)
    for voxel in range(first, end, V):
        inside = (voxel + v < end)[:, None] & exist[None, :]
        value = tl.load(x + start + offsets, mask=inside, other=0.0).to(tl.float32)
        y = (value - centre[None, :]) * scale[None, :] + shift[None, :]
        y = tl.where(y > 0, y, y * slope)
        tl.store(out + start + offsets, y.to(out.dtype.element_ty), mask=inside)
        start += V * voxel_stride


@triton.jit
def _behind_activation(x, gradient, inside, centre, scale, shift, slope):  # type: ignore[no-untyped-def]
    """A block's values less their mean, and the gradient behind the activation, which is 0 outside."""
    off = tl.load(x, mask=inside, other=0.0).to(tl.float32) - centre[None, :]
    g = tl.load(gradient, mask=inside, other=0.0).to(tl.float32)
    return off, tl.where(off * scale[None, :] + shift[None, :] > 0, g, g * slope)


@triton.jit
def _gradient_sums(  # type: ignore[no-untyped-def]
    x, gradient, weight, bias, mean, inverse, products, sums,
    voxels, channels, chunk, chunks, sample_stride, channel_stride, voxel_stride, slope,
    V: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk of g * x_hat and of g, the gradient behind the activation; (instances, chunks) each."""
    instances, exist, first, end, start, offsets = _place(
        channels, chunk, voxels, sample_stride, channel_stride, voxel_stride, V, C
    )
    centre, inverses, scale, shift = _line(weight, bias, mean, inverse, instances, exist, channels)
    v = tl.arange(0, V)
    product = tl.zeros([V, C], tl.float32)
    total = tl.zeros([V, C], tl.float32)
    for voxel in range(first, end, V):
        inside = (voxel + v < end)[:, None] & exist[None, :]
        at = start + offsets
        off, g = _behind_activation(x + at, gradient + at, inside, centre, scale, shift, slope)
        product += g * off
        total += g
        start += V * voxel_stride
    own = instances * chunks + tl.program_id(1)
    tl.store(products + own, tl.sum(product, 0) * inverses, mask=exist)
    tl.store(sums + own, tl.sum(total, 0), mask=exist)


@triton.jit
def _gradient(  # type: ignore[no-untyped-def]
    x, gradient, weight, bias, mean, inverse, products, sums, out,
    voxels, channels, chunk, chunks, sample_stride, channel_stride, voxel_stride, slope,
    V: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """scale * (g - mean of g - x_hat * mean of g * x_hat)."""
    instances, exist, first, end, start, offsets = _place(
        channels, chunk, voxels, sample_stride, channel_stride, voxel_stride, V, C
    )
    centre, inverses, scale, shift = _line(weight, bias, mean, inverse, instances, exist, channels)
    level = tl.load(sums + instances, mask=exist, other=0.0) / voxels
    slant = tl.load(products + instances, mask=exist, other=0.0) / voxels * inverses
    v = tl.arange(0, V)
    for voxel in range(first, end, V):
        inside = (voxel + v < end)[:, None] & exist[None, :]
        at = start + offsets
        off, g = _behind_activation(x + at, gradient + at, inside, centre, scale, shift, slope)
        g = scale[None, :] * (g - level[None, :] - off * slant[None, :])
        tl.store(out + at, g.to(out.dtype.element_ty), mask=inside)
        start += V * voxel_stride
