"""Reading a patch on an affine grid: compiled, straight from a memory map, and as DALI's graph.

Coordinates are voxel indices (z, y, x); ``input = matrix @ output + offset``; outside the volume the value is 0.
Both forms compute the same. DALI's CPU warp is five times slower than the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np
from nvidia.dali import fn, types

from data_loading.augmentation.effect import Node


def warp_image(volume_cdhw: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape_dhw: np.ndarray) -> np.ndarray:
    """Sample a (C, D, H, W) float32 volume linearly on an affine grid.

    Args:
        volume_cdhw: may be a read-only memory map; only the voxels under the grid are touched.
        matrix: (3, 3) from output to input voxels.
        offset: (3,) input voxels.
        shape_dhw: the output's shape.

    Returns:
        (C, \\*shape_dhw) float32.
    """
    out = np.empty((volume_cdhw.shape[0], *(int(n) for n in shape_dhw)), np.float32)
    _warp_linear(_readonly(volume_cdhw), np.ascontiguousarray(matrix, np.float64), np.asarray(offset, np.float64), out)
    return out


def warp_label(volume_cdhw: np.ndarray, matrix: np.ndarray, offset: np.ndarray, shape_dhw: np.ndarray) -> np.ndarray:
    """Sample a (C, D, H, W) integer volume at the nearest voxels; see :func:`warp_image`."""
    out = np.empty((volume_cdhw.shape[0], *(int(n) for n in shape_dhw)), volume_cdhw.dtype)
    _warp_nearest(_readonly(volume_cdhw), np.ascontiguousarray(matrix, np.float64), np.asarray(offset, np.float64), out)
    return out


def dali_matrix(matrix: np.ndarray, offset: np.ndarray, axes: int) -> np.ndarray:
    """The (axes, axes + 1) float32 matrix of ``fn.warp_affine``: x, y, z order, pixel centres at 0.5."""
    matrix, offset = matrix[-axes:, -axes:], offset[-axes:]
    shift = offset + 0.5 - matrix @ np.full(axes, 0.5)
    return np.concatenate([matrix[::-1, ::-1], shift[::-1, None]], axis=1, dtype=np.float32)


def dali_warp_image(image: Node, matrix: Node, sides: Sequence[int]) -> Node:
    """:func:`warp_image` as a graph: (C, *axes) to (C, *sides) by the matrix of :func:`dali_matrix`."""
    return _dali_warp(image, matrix, sides, types.DALIInterpType.INTERP_LINEAR)


def dali_warp_label(label: Node, matrix: Node, sides: Sequence[int]) -> Node:
    """:func:`warp_label` as a graph."""
    return _dali_warp(label, matrix, sides, types.DALIInterpType.INTERP_NN)


def _dali_warp(image: Node, matrix: Node, sides: Sequence[int], interpolation: Any) -> Node:
    axes = len(sides)
    last = fn.transpose(image, perm=[*range(1, axes + 1), 0])  # warp_affine wants the channel last
    warped = fn.warp_affine(
        last, matrix=matrix, size=list(sides), interp_type=interpolation, fill_value=0, inverse_map=True
    )
    return fn.transpose(warped, perm=[axes, *range(axes)])


def _readonly(array: np.ndarray) -> np.ndarray:
    """A plain read-only view, so that arrays and memory maps share one compiled kernel."""
    view = np.asarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


@nb.njit(cache=True, nogil=True)
def _span(first, step, low, high, count):  # type: ignore[no-untyped-def]
    """The x in [0, count) with low <= first + step * x < high: (begin, end), empty where begin >= end."""
    if step == 0:
        return (0, count) if low <= first < high else (0, 0)
    near, far = (low - first) / step, (high - first) / step
    # Rounded inwards by a voxel, then let out again where arithmetic agrees: no end is off by rounding.
    begin = max(0, min(count, math.ceil(min(near, far)) + 1))
    end = max(begin, min(count, math.floor(max(near, far))))
    while begin > 0 and low <= first + step * (begin - 1) < high:
        begin -= 1
    while end < count and low <= first + step * end < high:
        end += 1
    return begin, end


@nb.njit(cache=True, nogil=True)
def _row_span(start, step, low, above, shape, count):  # type: ignore[no-untyped-def]
    """The x whose place start + step * x lies in [low, side + above) along all three axes."""
    begin, end = 0, count
    for axis in range(3):
        first, last = _span(start[axis], step[axis], low, shape[axis] + above, count)
        begin, end = max(begin, first), min(end, last)
    return begin, max(begin, end)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _warp_linear(volume, matrix, offset, out):  # type: ignore[no-untyped-def]
    shape, step, width = volume.shape[1:], matrix[:, 2], out.shape[3]
    start = np.empty(3)
    for z in range(out.shape[1]):
        for y in range(out.shape[2]):
            for axis in range(3):
                start[axis] = matrix[axis, 0] * z + matrix[axis, 1] * y + offset[axis]
            # A row is a line and the volume is convex: outside, at a border, inside, at a border, outside.
            begin, end = _row_span(start, step, -1.0, 0, shape, width)
            first, last = _row_span(start, step, 0.0, -1, shape, width)
            if first >= last:
                first = last = end
            for c in range(volume.shape[0]):
                row = out[c, z, y]
                row[:begin] = 0
                row[end:] = 0
                _interpolate_inside(volume[c], start, step, row, first, last)
                _interpolate_border(volume[c], start, step, row, begin, first)
                _interpolate_border(volume[c], start, step, row, last, end)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _interpolate_border(source, start, step, row, begin, end):  # type: ignore[no-untyped-def]
    """Linear interpolation along a stretch of a row that touches the volume's border."""
    for x in range(begin, end):
        row[x] = _interpolate(source, start[0] + step[0] * x, start[1] + step[1] * x, start[2] + step[2] * x)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _interpolate_inside(source, start, step, row, begin, end):  # type: ignore[no-untyped-def]
    """Linear interpolation along a stretch of a row whose eight neighbours are all there."""
    z0, y0, x0 = start
    zx, yx, xx = step
    for x in range(begin, end):
        cz, cy, cx = z0 + zx * x, y0 + yx * x, x0 + xx * x
        iz, iy, ix = np.int64(cz), np.int64(cy), np.int64(cx)
        fz, fy, fx = np.float32(cz - iz), np.float32(cy - iy), np.float32(cx - ix)
        a00 = source[iz, iy, ix] + fx * (source[iz, iy, ix + 1] - source[iz, iy, ix])
        a01 = source[iz, iy + 1, ix] + fx * (source[iz, iy + 1, ix + 1] - source[iz, iy + 1, ix])
        a10 = source[iz + 1, iy, ix] + fx * (source[iz + 1, iy, ix + 1] - source[iz + 1, iy, ix])
        a11 = source[iz + 1, iy + 1, ix] + fx * (source[iz + 1, iy + 1, ix + 1] - source[iz + 1, iy + 1, ix])
        b0 = a00 + fy * (a01 - a00)
        b1 = a10 + fy * (a11 - a10)
        row[x] = b0 + fz * (b1 - b0)


@nb.njit(cache=True, nogil=True, fastmath=True)
def _interpolate(source, cz, cy, cx):  # type: ignore[no-untyped-def]
    """Linear interpolation where some of the eight neighbours may lie outside and count as 0."""
    depth, height, width = source.shape
    if cz <= -1 or cy <= -1 or cx <= -1 or cz >= depth or cy >= height or cx >= width:
        return np.float32(0)
    iz, iy, ix = math.floor(cz), math.floor(cy), math.floor(cx)
    fz, fy, fx = cz - iz, cy - iy, cx - ix
    total = 0.0
    for dz in range(2):
        if iz + dz < 0 or iz + dz >= depth:
            continue
        wz = fz if dz else 1 - fz
        for dy in range(2):
            if iy + dy < 0 or iy + dy >= height:
                continue
            wy = wz * (fy if dy else 1 - fy)
            for dx in range(2):
                if 0 <= ix + dx < width:
                    total += wy * (fx if dx else 1 - fx) * source[iz + dz, iy + dy, ix + dx]
    return np.float32(total)


@nb.njit(cache=True, nogil=True)
def _warp_nearest(volume, matrix, offset, out):  # type: ignore[no-untyped-def]
    shape, step, width = volume.shape[1:], matrix[:, 2], out.shape[3]
    start = np.empty(3)
    for z in range(out.shape[1]):
        for y in range(out.shape[2]):
            for axis in range(3):  # half a voxel on: the index is then what is left of the point
                start[axis] = matrix[axis, 0] * z + matrix[axis, 1] * y + offset[axis] + 0.5
            begin, end = _row_span(start, step, 0.0, 0, shape, width)
            for c in range(volume.shape[0]):
                row = out[c, z, y]
                row[:begin] = 0
                row[end:] = 0
                for x in range(begin, end):
                    iz, iy, ix = start[0] + step[0] * x, start[1] + step[1] * x, start[2] + step[2] * x
                    row[x] = volume[c, np.int64(iz), np.int64(iy), np.int64(ix)]
