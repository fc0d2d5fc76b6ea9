"""The CPU kernels of fused.py, compiled by numba, for channels-last tensors.

A voxel's channels lie side by side, so that statistics, normalisation and activation run over them in
vector registers, and the backward pass reads no more than the layer's input and the gradient. bfloat16 is
read and rounded within the registers; all sums are float32 in blocks and float64 between blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import intrinsic, overload
from torch import Tensor

BITS = {torch.bfloat16: torch.uint16, torch.float32: torch.float32}  # as what NumPy sees them
TILE = 256  # values that an inner loop spans, a whole number of voxels
BLOCK = 256  # tiles that a float32 sum spans


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, mean and 1 / standard deviation; see fused.py. ``x`` is channels-last."""
    out = torch.empty_like(x)
    mean, inverse = (np.empty(x.shape[:2], np.float32) for _ in range(2))
    rows, results = _rows(x), _rows(out)
    w, b = _parameters(x.shape[1], weight, bias)

    def normalise(i: int) -> None:
        _moments(rows[i], mean[i], inverse[i], np.float32(eps))
        scale = w * inverse[i]
        _forward(rows[i], scale, b - mean[i] * scale, np.float32(slope), results[i])

    _each(normalise, len(rows))
    return out, torch.from_numpy(mean), torch.from_numpy(inverse)


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, weight and bias; see fused.py."""
    out = torch.empty_like(x)
    means, inverses = mean.numpy(), inverse.numpy()
    d_weight, d_bias = np.empty_like(means), np.empty_like(means)
    rows, outer, results = _rows(x), _rows(gradient), _rows(out)
    w, b = _parameters(x.shape[1], weight, bias)
    scale = w * inverses
    shift = b - means * scale

    def differentiate(i: int) -> None:
        activation = scale[i], shift[i], np.float32(slope)
        _gradient_sums(rows[i], outer[i], *activation, means[i], d_weight[i], d_bias[i])
        d_weight[i] *= inverses[i]
        voxels = rows.shape[1] // len(means[i])
        slant = d_weight[i] * inverses[i] / voxels
        _backward(rows[i], outer[i], *activation, d_bias[i] / voxels - means[i] * slant, slant, results[i])

    _each(differentiate, len(rows))
    return out, torch.from_numpy(d_weight.sum(axis=0)), torch.from_numpy(d_bias.sum(axis=0))


def _parameters(channels: int, weight: Tensor | None, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """(C,) float32; ones and zeros where there are none."""
    w = np.ones(channels, np.float32) if weight is None else weight.detach().float().numpy()
    b = np.zeros(channels, np.float32) if bias is None else bias.detach().float().numpy()
    return w, b


def _rows(x: Tensor) -> np.ndarray:
    """(N, voxels * C) view of a channels-last tensor; bfloat16 as its bits."""
    flat = x.detach().movedim(1, -1).flatten(1)
    return flat.view(BITS[x.dtype]).numpy()


def _each(work: Callable[[int], None], n: int) -> None:
    """Samples side by side on as many threads as PyTorch has; the kernels hold no lock."""
    threads = min(n, torch.get_num_threads())
    if threads == 1:
        for i in range(n):
            work(i)
        return
    for _ in _pool(threads).map(work, range(n)):
        pass  # the iteration raises what a thread raised


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="norm")


@intrinsic
def _bits_to_float(typing_context: Any, bits: Any) -> Any:
    """The float32 that a uint32 spells."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), build


@intrinsic
def _float_to_bits(typing_context: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), build


def _widen(value: Any) -> Any:
    """float32 of a stored value: itself, or the upper half of its bits."""
    raise NotImplementedError("compiled code only")


@overload(_widen, strict=False)
def _widen_by_type(value: Any) -> Any:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: _bits_to_float(np.uint32(np.uint32(value) << np.uint32(16)))  # type: ignore[call-arg]


def _put(out: Any, index: int, value: Any) -> None:
    """Store a float32; as bfloat16 rounded to the nearest, ties to even."""
    raise NotImplementedError("compiled code only")


@overload(_put, strict=False)
def _put_by_type(out: Any, index: Any, value: Any) -> Any:
    if isinstance(out.dtype, types.Float):

        def put(out: Any, index: Any, value: Any) -> None:
            out[index] = value
    else:

        def put(out: Any, index: Any, value: Any) -> None:
            bits = _float_to_bits(np.float32(value))  # type: ignore[call-arg,var-annotated]
            even = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
            out[index] = np.uint16(np.uint32(bits + even + np.uint32(0x7FFF)) >> np.uint32(16))

    return put


_compiled = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_compiled
def _tile(values: np.ndarray) -> np.ndarray:
    """One number a channel, repeated for the voxels of a tile."""
    tile = np.empty((max(1, TILE // len(values)), len(values)), np.float32)
    tile[:] = values
    return tile.ravel()


@_compiled
def _fold(tile: np.ndarray, total: np.ndarray) -> None:
    """Add a tile's float32 sums to the channels' float64 sums, and clear them."""
    for j in range(len(tile)):
        total[j % len(total)] += tile[j]
        tile[j] = 0


@_compiled
def _moments(x: np.ndarray, mean: np.ndarray, inverse: np.ndarray, eps: np.float32) -> None:
    """Mean and 1 / standard deviation of each channel; sums are of x minus an early guess of the mean."""
    channels = len(mean)
    sums = np.zeros(len(_tile(mean)), np.float32)
    squares = np.zeros_like(sums)
    size = len(sums)
    guess = np.zeros(channels, np.float32)
    first = min(len(x), size)
    for j in range(first):
        guess[j % channels] += _widen(x[j])
    for c in range(channels):
        guess[c] /= first // channels
    around = _tile(guess)
    total, total_squares = np.zeros(channels, np.float64), np.zeros(channels, np.float64)
    for block in range(0, len(x), BLOCK * size):
        for start in range(block, min(block + BLOCK * size, len(x)), size):
            row = x[start : start + size]  # an index that counts from 0 lets the compiler use vectors
            for j in range(len(row)):
                value = _widen(row[j]) - around[j]
                sums[j] += value
                squares[j] += value * value
        _fold(sums, total)
        _fold(squares, total_squares)
    voxels = len(x) // channels
    for c in range(channels):
        offset = total[c] / voxels
        variance = max(total_squares[c] / voxels - offset * offset, 0.0)
        mean[c] = guess[c] + offset
        inverse[c] = 1 / np.sqrt(variance + eps)


@_compiled
def _forward(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, slope: np.float32, out: np.ndarray) -> None:
    scales, shifts = _tile(scale), _tile(shift)
    for start in range(0, len(x), len(scales)):
        row, result = x[start : start + len(scales)], out[start : start + len(scales)]
        for j in range(len(row)):
            y = _widen(row[j]) * scales[j] + shifts[j]
            _put(result, j, max(y, np.float32(0)) + min(y, np.float32(0)) * slope)


@_compiled
def _gradient_sums(
    x: np.ndarray,
    gradient: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    slope: np.float32,
    mean: np.ndarray,
    products: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Sums over the voxels of g * (x - mean) and of g, the gradient behind the activation."""
    scales, shifts, means = _tile(scale), _tile(shift), _tile(mean)
    size = len(scales)
    part, part_products = np.zeros(size, np.float32), np.zeros(size, np.float32)
    total, total_products = np.zeros(len(mean), np.float64), np.zeros(len(mean), np.float64)
    for block in range(0, len(x), BLOCK * size):
        for start in range(block, min(block + BLOCK * size, len(x)), size):
            row, outer = x[start : start + size], gradient[start : start + size]
            for j in range(len(row)):
                value, g = _widen(row[j]), _widen(outer[j])
                g = g if value * scales[j] + shifts[j] > 0 else g * slope
                part[j] += g
                part_products[j] += g * (value - means[j])
        _fold(part, total)
        _fold(part_products, total_products)
    products[:] = total_products
    sums[:] = total


@_compiled
def _backward(
    x: np.ndarray,
    gradient: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    slope: np.float32,
    level: np.ndarray,
    slant: np.ndarray,
    out: np.ndarray,
) -> None:
    """scale * (g - mean(g) - x_hat * mean(g * x_hat)), the two means written as a line in x."""
    scales, shifts, levels, slants = _tile(scale), _tile(shift), _tile(level), _tile(slant)
    for start in range(0, len(x), len(scales)):
        stop = start + len(scales)
        row, outer, result = x[start:stop], gradient[start:stop], out[start:stop]
        for j in range(len(row)):
            value, g = _widen(row[j]), _widen(outer[j])
            g = g if value * scales[j] + shifts[j] > 0 else g * slope
            _put(result, j, scales[j] * (g - levels[j] - value * slants[j]))
