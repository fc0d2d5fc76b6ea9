"""Triton kernels of device.py; imported on CUDA only.

A row's shuffle is two passes over its voxels, for windows and their permutations are functions of (seed, window,
position), see cpu.py: nothing is stored for them. ``_own`` marks each voxel with the last window that covers it;
``_finish`` then reads every voxel's source once, bends it along its row's curve, paints and writes it. Together they
move 4 bytes a voxel to clear and 4 to read the owner map, 4 to read and 4 to write the image, plus one atomic for each
voxel of each window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from data_loading import hashing
from pretraining.genesis import packing
from pretraining.genesis.cpu import TABLE_STEPS

_CHUNK = 128
_BLOCK = 1024
_FINISHED = 512  # voxels of a program of ``_finish``, two a thread: with eight their state fills the registers
_WARPS = 8
_FIRST, _SECOND = (tl.constexpr(factor) for factor in hashing.MULTIPLIERS)
_BEFORE, _BETWEEN, _AFTER = (tl.constexpr(shift) for shift in hashing.SHIFTS)
_SHUFFLED, _SHUFFLE_SEED = tl.constexpr(packing.SHUFFLED), tl.constexpr(packing.SHUFFLE_SEED)
_BENT, _PAINTED = tl.constexpr(packing.BENT), tl.constexpr(packing.PAINTED)
_PAINT_SEED, _BOXES = tl.constexpr(packing.PAINT_SEED), tl.constexpr(packing.BOXES)
_AROUND = tl.constexpr(packing.AROUND)


@triton.jit
def _mix(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> _BEFORE)) * _FIRST
    x = (x ^ (x >> _BETWEEN)) * _SECOND
    return x ^ (x >> _AFTER)


@triton.jit
def _hash(counter, low, high):  # type: ignore[no-untyped-def]
    return _mix(_mix(counter.to(tl.uint32) ^ low) + high)


@triton.jit
def _uniform(counter, low, high):  # type: ignore[no-untyped-def]
    return (_hash(counter, low, high) >> 8).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _side_and_start(draw, longest, length):  # type: ignore[no-untyped-def]
    side = 1 + (((draw >> 16) * longest) >> 16).to(tl.int32)
    start = (((draw & 0xFFFF) * (length - side + 1).to(tl.uint32)) >> 16).to(tl.int32)
    return side, start


@triton.jit
def _own(owner, channels, depth, height, width, long_d, long_h, long_w, K: tl.constexpr, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program a window and row; a row that is not shuffled has windows without voxels."""
    window = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    numbers = channels + row * (_BOXES + 6 * K)
    low = tl.load(numbers + _SHUFFLE_SEED).to(tl.uint32, bitcast=True)
    high = tl.load(numbers + _SHUFFLE_SEED + 1).to(tl.uint32, bitcast=True)
    side_d, d = _side_and_start(_hash(3 * window, low, high), long_d, depth)
    side_h, h = _side_and_start(_hash(3 * window + 1, low, high), long_h, height)
    side_w, w = _side_and_start(_hash(3 * window + 2, low, high), long_w, width)
    n = side_d * side_h * side_w * tl.load(numbers + _SHUFFLED)
    base = owner + row * depth * height * width
    for first in range(0, n, CHUNK):
        i = first + tl.arange(0, CHUNK)
        place = ((d + i // (side_h * side_w)) * height + h + i // side_w % side_h) * width + w + i % side_w
        tl.atomic_max(base + place, tl.zeros_like(place) + (window + 1), mask=i < n, sem="relaxed")


@triton.jit
def _finish(  # type: ignore[no-untyped-def]
    image, out, owner, ends, channels, tables,
    depth, height, width, long_d, long_h, long_w,
    K: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    numbers = channels + row * (_BOXES + 6 * K)
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = depth * height * width
    valid = voxel < size
    d, h, w = voxel // (height * width), voxel // width % height, voxel % width

    window = tl.load(owner + row * size + voxel, mask=valid, other=0) - 1
    owned = window >= 0
    low = tl.load(numbers + _SHUFFLE_SEED).to(tl.uint32, bitcast=True)
    high = tl.load(numbers + _SHUFFLE_SEED + 1).to(tl.uint32, bitcast=True)
    h0 = _hash(3 * window, low, high)
    h1 = _hash(3 * window + 1, low, high)
    h2 = _hash(3 * window + 2, low, high)
    side_d, start_d = _side_and_start(h0, long_d, depth)
    side_h, start_h = _side_and_start(h1, long_h, height)
    side_w, start_w = _side_and_start(h2, long_w, width)
    n = (side_d * side_h * side_w).to(tl.uint32)
    mask = n - 1
    mask |= mask >> 1
    mask |= mask >> 2
    mask |= mask >> 4
    mask |= mask >> 8
    mask |= mask >> 16
    shift = tl.full([BLOCK], 1, tl.uint32)
    for half in tl.static_range(1, 10):
        shift += ((mask >> (2 * half)) != 0).to(tl.uint32)
    k0, k1 = _mix(h0 ^ h1), _mix(h1 + h2)
    i = (((d - start_d) * side_h + h - start_h) * side_w + w - start_w).to(tl.uint32)
    todo = owned
    while tl.max(todo.to(tl.int32), 0) > 0:
        j = (i * (k0 | 1) + (k0 >> 16)) & mask
        j ^= j >> shift
        j = (j * (k1 | 1) + (k1 >> 16)) & mask
        j ^= j >> shift
        j = (j * ((k0 >> 8) | 1) + (k0 >> 24)) & mask
        j ^= j >> shift
        j = (j * ((k1 >> 8) | 1) + (k1 >> 24)) & mask
        j ^= j >> shift
        i = tl.where(todo, j, i)
        todo = todo & (i >= n)
    i = i.to(tl.int32)
    moved = ((start_d + i // (side_h * side_w)) * height + start_h + i // side_w % side_h) * width
    moved += start_w + i % side_w
    source = tl.where(owned, moved, voxel)
    value = tl.load(image + row * size + source, mask=valid, other=0.0)

    bottom = tl.load(ends + 2 * row)
    span = tl.load(ends + 2 * row + 1) - bottom
    if tl.load(numbers + _BENT) != 0:
        steps = tl.where(span > 0, STEPS / span, 0.0)
        x = tl.minimum(tl.maximum((value - bottom) * steps, 0.0), STEPS * 1.0)
        k = tl.minimum(x.to(tl.int32), STEPS - 1)
        left = tl.load(tables + row * (STEPS + 1) + k)
        right = tl.load(tables + row * (STEPS + 1) + k + 1)
        value = bottom + (left + (x - k.to(tl.float32)) * (right - left)) * span

    kind = tl.load(numbers + _PAINTED)
    if kind != 0:
        inside = tl.zeros([BLOCK], tl.int1)
        for box in tl.static_range(K):
            at = numbers + _BOXES + 6 * box
            in_d = (d >= tl.load(at)) & (d < tl.load(at + 3))
            in_h = (h >= tl.load(at + 1)) & (h < tl.load(at + 4))
            in_w = (w >= tl.load(at + 2)) & (w < tl.load(at + 5))
            inside = inside | (in_d & in_h & in_w)
        noise_low = tl.load(numbers + _PAINT_SEED).to(tl.uint32, bitcast=True)
        noise_high = tl.load(numbers + _PAINT_SEED + 1).to(tl.uint32, bitcast=True)
        noise = _uniform(voxel, noise_low, noise_high)
        value = tl.where(inside ^ (kind == _AROUND), bottom + noise * span, value)
    tl.store(out + row * size + voxel, value, mask=valid)


@triton.jit
def _noise(out, seeds, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    low = tl.load(seeds + 2 * row).to(tl.uint32, bitcast=True)
    high = tl.load(seeds + 2 * row + 1).to(tl.uint32, bitcast=True)
    tl.store(out + row * size + place, _uniform(place, low, high), mask=place < size)


def uniform_noise(seeds: Tensor, size: int) -> Tensor:
    """See device.uniform_noise; seeds int32 (R, 2), contiguous."""
    out = torch.empty(len(seeds), size, device=seeds.device)
    with torch.cuda.device_of(seeds):
        _noise[(triton.cdiv(size, _BLOCK), len(seeds))](out, seeds, size, BLOCK=_BLOCK)
    return out


def corrupt(
    rows: Tensor, ends: Tensor, channels: Tensor, tables: Tensor, windows: int, longest: Sequence[int]
) -> Tensor:
    """See device.corrupt. (R, D, H, W) float32."""
    shape = rows.shape[1:]
    rows, ends, channels, tables = (each.contiguous() for each in (rows, ends, channels, tables))
    size, boxes = shape[0] * shape[1] * shape[2], (channels.shape[1] - packing.BOXES) // 6
    owner = torch.zeros(len(rows), size, dtype=torch.int32, device=rows.device)
    sides = (*shape, *longest)
    out = torch.empty_like(rows)
    with torch.cuda.device_of(rows):
        if windows:
            _own[(windows, len(rows))](owner, channels, *sides, K=boxes, CHUNK=_CHUNK)
        _finish[(triton.cdiv(size, _FINISHED), len(rows))](
            rows, out, owner, ends, channels, tables, *sides,
            K=boxes, STEPS=TABLE_STEPS, BLOCK=_FINISHED, num_warps=_WARPS,
        )  # fmt: skip
    return out
