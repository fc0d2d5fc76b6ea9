"""The CUDA kernels of own.py, in Triton: a 3x3x3 convolution of channels-last tensors into blocks of 32 channels.

What 32 by 32 channels cost, two samples of 128 cubed, on an H200: 232 GFLOP are 0.23 ms of its tensor cores at
990 TFLOP/s, and 537 MB read and written 0.11 ms of its memory at 4.8 TB/s. The tensor cores are the limit, but what
feeds them comes first: with only 32 columns they want rows faster than shared memory gives them. Counted for 128
voxels, in cycles of one multiprocessor that moves 128 bytes in each (the products alone take 1728):

- 27 shifted copies of the input, as a plain implicit matrix product takes: 27 * 64 to load, to store, and to
  multiply, and for the weights as many as they have bytes, 432 + 432 + 864: 6900, a quarter of the peak.
- ``_planes`` walks along D with the sums of three output planes in registers, so that a shifted plane is loaded once
  for its three taps: 576 + 576 + 1728 and the weights again, 4600: 37 % of the peak. On Ampere the three
  products share the rows in registers.
- ``_image`` gathers all taps of an image of 1 to 4 channels into one product; its limit is the memory that it writes.
- ``_weights`` multiplies (4 taps of W x 32) by (4 taps of D x 32) over voxels; 3 x 3 of them count, nine gradients for
  two loads, a third of the peak. ``_image_weights`` is ``_image`` turned round.

The first two gather mean and sum of squared deviations of what they write, chunk by chunk (fused.Cut), so that
the norm need not read it for them. Sums go in a fixed order: the same input gives the same bits.

Positions p = h * width + w number the voxels of a plane, u = d * height * width + p those of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from nets.conv.tiles import CHANNELS, FEW, TAPS, TILE, Shape, cut_of, weight_chunk
from nets.norm.fused import Cut

STREAMED = 64  # voxels of a step of an image, and of the weights' gradient


def forward(x: Tensor, weight: Tensor, statistics: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The convolution, and with ``statistics`` means and squares of its chunks, as fused.Gathered has them.

    ``x`` is channels-last; ``weight`` (C_out, C_in, 3, 3, 3) of its dtype, in any layout.
    """
    cut = cut_of(Shape(*x.shape), x.device)
    shape = (len(x) * len(weight), cut.chunks if statistics else 0)
    means = x.new_empty(shape, dtype=torch.float32)
    squares = torch.empty_like(means)
    strides = (*weight.stride()[2:], weight.stride(1), weight.stride(0))
    return _convolve(x, weight, len(weight), strides, cut, means, squares), means, squares


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """The convolution of the gradient with the weights back to front, outputs for inputs."""
    strides = (*(-stride for stride in weight.stride()[2:]), weight.stride(0), weight.stride(1))
    cut = cut_of(Shape(*gradient.shape), gradient.device)
    nothing = gradient.new_empty((0, 0), dtype=torch.float32)
    last = weight[:, :, 2, 2, 2]  # from where the strides lead back
    return _convolve(gradient, last, weight.shape[1], strides, cut, nothing, nothing)


def _convolve(
    x: Tensor, weight: Tensor, channels: int, strides: Sequence[int], cut: Cut, means: Tensor, squares: Tensor
) -> Tensor:
    shape = Shape(*x.shape)
    layout = torch.channels_last_3d
    out = torch.empty((len(x), channels, *x.shape[2:]), dtype=x.dtype, device=x.device, memory_format=layout)
    constants = {"IN": shape.channels, "OUT": channels, "STATISTICS": means.numel() > 0}
    tensors = (x, weight, out, means, squares)
    with torch.cuda.device_of(x):
        if shape.channels <= FEW:
            sizes = (shape.planes, shape.height, shape.width, cut.tile, cut.chunks)
            _image[cut.chunks, shape.samples](
                *tensors, *sizes, *strides, **constants, M=STREAMED, K=taps_of(shape.channels), **IMAGE
            )
        else:
            tiles, parts = triton.cdiv(cut.positions, cut.tile), triton.cdiv(cut.planes, cut.depth)
            sizes = (shape.planes, shape.width, shape.positions, cut.depth, cut.chunks)
            _planes[tiles, parts, shape.samples * (channels // CHANNELS)](
                *tensors,
                *sizes,
                *strides,
                **constants,
                M=TILE,
                K=CHANNELS,
                N=CHANNELS,
                **planes_options(shape.channels, hopper=has_hopper(x)),
            )
    return out


def taps_of(channels: int) -> int:
    """Rows of an image's product: its taps, up to a power of 2."""
    return max(32, triton.next_power_of_2(TAPS * channels))


HALF = {"num_warps": 8, "maxnreg": 128}  # of a multiprocessor's registers, so that two programs share it
IMAGE = {"num_warps": 4, "num_stages": 2}


def planes_options(channels: int, *, hopper: bool) -> dict[str, int]:
    """How ``_planes`` is compiled.

    An instruction of Hopper's and later takes 64 rows and 4 warps, so that 8 warps share a tile's 128 rows well. On
    Ampere a warp reads all weights for its own rows, which should be many; and 64 channels want more registers.
    """
    return HALF | {"num_stages": 3} if hopper and channels == CHANNELS else {"num_warps": 4, "num_stages": 3}


def weights_options(*, hopper: bool) -> dict[str, int]:
    """How ``_weights`` is compiled."""
    return HALF | {"num_stages": 3 if hopper else 2}


def has_hopper(x: Tensor) -> bool:
    """Whether the device is of Hopper's generation or later."""
    return x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= (9, 0)


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3, 3) float32."""
    shape, outputs = Shape(*x.shape), gradient.shape[1]
    with torch.cuda.device_of(x):
        if shape.channels <= FEW:
            cut, rows = cut_of(shape, x.device), taps_of(shape.channels)
            parts = x.new_empty((shape.samples * cut.chunks, rows, outputs), dtype=torch.float32)
            sizes = (shape.planes, shape.height, shape.width, cut.tile, cut.chunks)
            _image_weights[cut.chunks, shape.samples](
                x, gradient, parts, *sizes, IN=shape.channels, OUT=outputs, V=STREAMED, K=rows, **IMAGE
            )
            taps = parts.sum(0)[: TAPS * shape.channels]
            return taps.view(3, 3, 3, shape.channels, outputs).permute(4, 3, 0, 1, 2)
        blocks, voxels = shape.channels // CHANNELS, shape.samples * shape.voxels
        chunk = weight_chunk(shape, STREAMED, x.device)
        grid = (triton.cdiv(voxels, chunk), 3, blocks)
        parts = x.new_empty((*grid, 4, CHANNELS, 4, outputs), dtype=torch.float32)
        sizes = (voxels, shape.planes, shape.height, shape.width, chunk)
        _weights[grid](
            x,
            gradient,
            parts,
            *sizes,
            IN=shape.channels,
            OUT=outputs,
            V=STREAMED,
            C=CHANNELS,
            num_warps=8,
            num_stages=3,
        )
        taps = parts.sum(0)[:, :, :3, :, :3]  # of h, block, of w, channel, of d, output
        return taps.permute(5, 1, 3, 4, 0, 2).reshape(outputs, shape.channels, 3, 3, 3)


@triton.jit
def _gather(mean, square, before, y, exist, count):  # type: ignore[no-untyped-def]
    """Mean and sum of squared deviations (N,) of ``before`` rows, and now of these (M, N) too; ``count`` exist."""
    y = y.to(tl.float32)
    centre = tl.sum(tl.where(exist, y, 0.0), 0) / count
    off = tl.where(exist, y - centre[None, :], 0.0)
    step = centre - mean
    share = count / (before + count)
    return mean + step * share, square + tl.sum(off * off, 0) + step * step * (before * share), before + count


@triton.jit
def _shifted(x, offsets, sides, plane, planes, width, step, IN: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rows (M, K) of a step: a tap in a plane, and a block of K channels. ``sides``: a bit for each tap inside."""
    tap = step % 9
    inside = (((sides >> tap) & 1) != 0) & (plane >= 0) & (plane < planes)
    at = x + ((tap // 3 - 1) * width + tap % 3 - 1) * IN + step // 9 * K
    return tl.load(at + offsets, mask=inside[:, None], other=0.0)


@triton.jit
def _planes(  # type: ignore[no-untyped-def]
    x, weight, out, means, squares,
    planes, width, positions, depth, chunks, tap_d, tap_h, tap_w, row, column,
    IN: tl.constexpr, OUT: tl.constexpr, STATISTICS: tl.constexpr,
    M: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """A tile of M positions over ``depth`` planes, N output channels.

    ``weight`` is its tap (0, 0, 0), from where the strides lead to other taps, input and output channels.
    RESIDENT: weights are loaded once and kept. Otherwise a rolled loop streams them: they may be too many, and for
    Blackwell Triton copies the sums of an unrolled chain of products at every one.
    """
    first = tl.program_id(1) * depth
    end = tl.minimum(first + depth, planes)
    sample = tl.program_id(2) // (OUT // N)
    n = tl.program_id(2) % (OUT // N) * N + tl.arange(0, N)
    p = tl.program_id(0) * M + tl.arange(0, M)
    h = p // width
    w = p % width
    sides = tl.zeros([M], tl.int32)
    for tap in tl.static_range(9):
        there = (h + tap // 3 > 0) & (h + tap // 3 <= positions // width) & (w + tap % 3 > 0) & (w + tap % 3 <= width)
        sides += (there & (p < positions)).to(tl.int32) << tap
    k = tl.arange(0, K)
    offsets = p[:, None] * IN + k[None, :]
    taps = weight + k[:, None] * row + n[None, :] * column
    plane = sample.to(tl.int64) * planes + first
    x += (plane - 1) * positions * IN
    out += (plane - 2) * positions * OUT
    before = tl.zeros([M, N], tl.float32)
    here = tl.zeros([M, N], tl.float32)
    mean = tl.zeros([N], tl.float32)
    square = tl.zeros([N], tl.float32)
    seen = 0.0
    rows = tl.minimum(positions - tl.program_id(0) * M, M).to(tl.float32)
    for d in range(first - 1, end + 1):
        behind = tl.zeros([M, N], tl.float32)
        for i in range(9 * (IN // K)):
            value = _shifted(x, offsets, sides, d, planes, width, i, IN, K)
            at = taps + i % 9 // 3 * tap_h + i % 3 * tap_w + i // 9 * K * row
            behind = tl.dot(value, tl.load(at), behind)
            here = tl.dot(value, tl.load(at + tap_d), here)
            before = tl.dot(value, tl.load(at + 2 * tap_d), before)
        if d > first:  # the plane before this one has all its taps now
            y = before.to(out.dtype.element_ty)
            exist = (p < positions)[:, None]
            tl.store(out + p[:, None] * OUT + n[None, :], y, mask=exist)
            if STATISTICS:
                mean, square, seen = _gather(mean, square, seen, y, exist, rows)
        before = here
        here = behind
        x += positions * IN
        out += positions * OUT
    if STATISTICS:
        chunk = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        tl.store(means + (sample * OUT + n) * chunks + chunk, mean)
        tl.store(squares + (sample * OUT + n) * chunks + chunk, square)


@triton.jit
def _taps(x, u, planes, height, width, exist, IN: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """All taps of an image around its voxels u (V,): (K, V), row tap * IN + channel, 0 outside and from 27 * IN on."""
    k = tl.arange(0, K)
    d = k // (9 * IN) - 1
    h = k // (3 * IN) % 3 - 1
    w = k // IN % 3 - 1
    offsets = ((d * height + h) * width + w) * IN + k % IN
    at_d = d[:, None] + (u // (height * width))[None, :]
    at_h = h[:, None] + (u // width % height)[None, :]
    at_w = w[:, None] + (u % width)[None, :]
    inside = (at_d >= 0) & (at_d < planes) & (at_h >= 0) & (at_h < height) & (at_w >= 0) & (at_w < width)
    inside = inside & (k < 27 * IN)[:, None] & exist[None, :]
    return tl.load(x + offsets[:, None] + u[None, :] * IN, mask=inside, other=0.0)


@triton.jit
def _image(  # type: ignore[no-untyped-def]
    x, weight, out, means, squares,
    planes, height, width, chunk, chunks, tap_d, tap_h, tap_w, row, column,
    IN: tl.constexpr, OUT: tl.constexpr, STATISTICS: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """A chunk of the voxels of an image of few channels."""
    voxels = planes * height * width
    first = tl.program_id(0) * chunk
    end = tl.minimum(first + chunk, voxels)
    sample = tl.program_id(1)
    k = tl.arange(0, K)
    n = tl.arange(0, OUT)
    taps = weight + k // (9 * IN) * tap_d + k // (3 * IN) % 3 * tap_h + k // IN % 3 * tap_w + k % IN * row
    weights = tl.load(taps[:, None] + n[None, :] * column, mask=(k < 27 * IN)[:, None], other=0.0)
    x += sample.to(tl.int64) * voxels * IN
    out += (sample.to(tl.int64) * voxels + first) * OUT
    mean = tl.zeros([OUT], tl.float32)
    square = tl.zeros([OUT], tl.float32)
    seen = 0.0
    m = tl.arange(0, M)
    for voxel in range(first, end, M):
        exist = voxel + m < end
        value = _taps(x, voxel + m, planes, height, width, exist, IN, K)
        y = tl.dot(tl.trans(value), weights).to(out.dtype.element_ty)
        tl.store(out + m[:, None] * OUT + n[None, :], y, mask=exist[:, None])
        if STATISTICS:
            rows = tl.minimum(end - voxel, M).to(tl.float32)
            mean, square, seen = _gather(mean, square, seen, y, exist[:, None], rows)
        out += M * OUT
    if STATISTICS:
        tl.store(means + (sample * OUT + n) * chunks + tl.program_id(0), mean)
        tl.store(squares + (sample * OUT + n) * chunks + tl.program_id(0), square)


@triton.jit
def _weights(  # type: ignore[no-untyped-def]
    x, gradient, parts,
    voxels, planes, height, width, chunk,
    IN: tl.constexpr, OUT: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Of a chunk of the voxels of all samples: products of C = 32 channels of x at four taps of W with the gradient at
    four taps of D, for one tap of H; (chunks, taps of H, blocks of input channels, 4, C, 4, OUT)."""
    first = tl.program_id(0) * chunk
    end = tl.minimum(first + chunk, voxels)
    h_tap = tl.program_id(1) - 1
    j = tl.arange(0, 4 * C)
    w_tap = j // C - 1
    d_tap = j // C - 1
    from_x = w_tap * IN + j % C
    from_gradient = -d_tap.to(tl.int64) * (height * width * OUT) + j % C
    x += (first.to(tl.int64) + h_tap * width) * IN + tl.program_id(2) * C
    gradient += first.to(tl.int64) * OUT
    v = tl.arange(0, V)
    total = tl.zeros([4 * C, 4 * OUT], tl.float32)
    for voxel in range(first, end, V):
        u = voxel + v
        w = (u % width)[:, None] + w_tap[None, :]
        h = u // width % height + h_tap
        d = (u // (height * width) % planes)[:, None] - d_tap[None, :]
        inside = (w >= 0) & (w < width) & (w_tap < 2)[None, :] & ((u < end) & (h >= 0) & (h < height))[:, None]
        value = tl.load(x + v[:, None] * IN + from_x[None, :], mask=inside, other=0.0)
        inside = (d >= 0) & (d < planes) & (d_tap < 2)[None, :] & (u < end)[:, None]
        g = tl.load(gradient + v[:, None] * OUT + from_gradient[None, :], mask=inside, other=0.0)
        total = tl.dot(tl.trans(value), g, total)
        x += V * IN
        gradient += V * OUT
    program = (tl.program_id(0) * 3 + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    at = program * (16 * C * OUT) + j[:, None] * (4 * OUT) + tl.arange(0, 4 * OUT)[None, :]
    tl.store(parts + at, total)


@triton.jit
def _image_weights(  # type: ignore[no-untyped-def]
    x, gradient, parts,
    planes, height, width, chunk, chunks,
    IN: tl.constexpr, OUT: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Products of an image's taps with the gradient over a chunk of a sample's voxels, (samples, chunks, K, OUT)."""
    voxels = planes * height * width
    first = tl.program_id(0) * chunk
    end = tl.minimum(first + chunk, voxels)
    sample = tl.program_id(1)
    x += sample.to(tl.int64) * voxels * IN
    gradient += (sample.to(tl.int64) * voxels + first) * OUT
    n = tl.arange(0, OUT)
    v = tl.arange(0, V)
    total = tl.zeros([K, OUT], tl.float32)
    for voxel in range(first, end, V):
        exist = voxel + v < end
        value = _taps(x, voxel + v, planes, height, width, exist, IN, K)
        g = tl.load(gradient + v[:, None] * OUT + n[None, :], mask=exist[:, None], other=0.0)
        total = tl.dot(value, g, total)
        gradient += V * OUT
    k = tl.arange(0, K)
    at = (sample * chunks + tl.program_id(0)) * (K * OUT) + k[:, None] * OUT + n[None, :]
    tl.store(parts + at, total)
