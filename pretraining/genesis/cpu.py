"""The Genesis transformations of one channel on the CPU, compiled.

Kernels take one (D, H, W) float32 patch, release the GIL and use a single thread, so that reading
workers run them side by side. Randomness is a counter hash (data_loading/hashing.py): whatever a window or a
voxel draws is a function of a 64-bit seed and its own number, which triton_kernels.py evaluates alike.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from numba import uint32 as u32
from scipy.ndimage import gaussian_filter1d

from data_loading.hashing import hash_word, mix, uniform

TABLE_STEPS = 4096  # of a curve's table: within 1e-3 for 99 curves in 100, 3e-3 where one starts all but upright
CURVE_POINTS = 4 * TABLE_STEPS  # points of the curve that the table is read from


@njit(inline="always")
def _side_and_start(draw, longest, length):  # type: ignore[no-untyped-def]
    """A window's side in [1, longest] from a word's upper half, its start from the lower."""
    side = 1 + np.int64(u32(u32(draw >> u32(16)) * u32(longest)) >> u32(16))
    start = np.int64(u32(u32(draw & u32(0xFFFF)) * u32(length - side + 1)) >> u32(16))
    return side, start


@njit(inline="always")
def _permute_step(i, mask, shift, k0, k1):  # type: ignore[no-untyped-def]
    """A keyed bijection of [0, mask], mask + 1 a power of two: four rounds of i * odd + term, i ^ i >> shift."""
    i = u32(u32(u32(i * u32(k0 | u32(1))) + u32(k0 >> u32(16))) & mask)
    i = u32(i ^ u32(i >> shift))
    i = u32(u32(u32(i * u32(k1 | u32(1))) + u32(k1 >> u32(16))) & mask)
    i = u32(i ^ u32(i >> shift))
    i = u32(u32(u32(i * u32(u32(k0 >> u32(8)) | u32(1))) + u32(k0 >> u32(24))) & mask)
    i = u32(i ^ u32(i >> shift))
    i = u32(u32(u32(i * u32(u32(k1 >> u32(8)) | u32(1))) + u32(k1 >> u32(24))) & mask)
    return u32(i ^ u32(i >> shift))


@njit(inline="always")
def _mask_and_shift(n):  # type: ignore[no-untyped-def]
    """The smallest 2^k - 1 that holds n values, and about half of k."""
    mask = u32(n - 1)
    for bits in (1, 2, 4, 8, 16):
        mask = u32(mask | u32(mask >> u32(bits)))
    shift = u32(1)
    for bits in (3, 5, 7, 9, 11, 13, 15, 17, 19):
        shift = u32(shift + u32(mask >> u32(bits - 1) != 0))
    return mask, shift


@njit(nogil=True, cache=True)
def _offset_table(longest, height, width):  # type: ignore[no-untyped-def]
    """Flat offsets, from a window's first voxel, of its voxels in C order; a row for (sh, sw).

    Windows of fewer slices read the beginning of their row.
    """
    starts = np.empty((longest[1] + 1, longest[2] + 1), np.uint32)
    entries = longest[0] * (longest[1] * (longest[1] + 1) // 2) * (longest[2] * (longest[2] + 1) // 2)
    table = np.empty(entries, np.uint32)
    n = 0
    for sh in range(1, longest[1] + 1):
        for sw in range(1, longest[2] + 1):
            starts[sh, sw] = n
            for d in range(longest[0]):
                for h in range(sh):
                    for w in range(sw):
                        table[n] = (d * height + h) * width + w
                        n += 1
    return starts, table


@njit(nogil=True, cache=True)
def shuffle(source, low, high, windows, longest):  # type: ignore[no-untyped-def]
    """Windows, later over earlier, each filled with its untouched voxels in a random order."""
    depth, height, width = source.shape
    out = source.copy()
    read, write = source.reshape(-1), out.reshape(-1)
    starts, table = _offset_table(longest, height, width)
    order = np.empty(longest[0] * longest[1] * longest[2], np.uint32)
    for window in range(windows):
        h0 = hash_word(3 * window, low, high)
        h1 = hash_word(3 * window + 1, low, high)
        h2 = hash_word(3 * window + 2, low, high)
        side_d, d = _side_and_start(h0, longest[0], depth)
        side_h, h = _side_and_start(h1, longest[1], height)
        side_w, w = _side_and_start(h2, longest[2], width)
        n = u32(side_d * side_h * side_w)
        first = u32((d * height + h) * width + w)
        mask, shift = _mask_and_shift(n)
        k0, k1 = mix(u32(h0 ^ h1)), mix(u32(h1 + h2))
        row = starts[side_h, side_w]
        for i in range(n):  # n is unsigned, and so are i and the indices: no check for negative ones
            order[i] = _permute_step(u32(i), mask, shift, k0, k1)
        for i in range(n):  # a value outside [0, n) goes round again; done for all at once first, as vectors
            again = _permute_step(order[i], mask, shift, k0, k1)
            order[i] = again if order[i] >= n else order[i]
        for i in range(n):
            j = order[i]
            while j >= n:
                j = _permute_step(j, mask, shift, k0, k1)
            write[u32(first + table[u32(row + u32(i))])] = read[u32(first + table[u32(row + j)])]
    return out


@njit(nogil=True, cache=True)
def curve_table(x1, y1, x2, y2, inverted):  # type: ignore[no-untyped-def]
    """y of the cubic Bezier curve (0,0), (x1,y1), (x2,y2), (1,1) at 4097 even places of x.

    x(t) never falls where x1 and x2 lie in [0, 1]. The inverted curve pairs x(t) with y(1 - t).
    """
    table = np.empty(TABLE_STEPS + 1, np.float32)
    x_before = x_after = 0.0
    y_before = y_after = 1.0 if inverted else 0.0
    point = 0
    for i in range(TABLE_STEPS + 1):
        x = i / TABLE_STEPS
        while x_after < x and point < CURVE_POINTS:
            point += 1
            x_before, y_before = x_after, y_after
            t = point / CURVE_POINTS
            s = 1.0 - t
            x_after = 3.0 * s * s * t * x1 + 3.0 * s * t * t * x2 + t * t * t
            if inverted:
                y_after = 3.0 * t * t * s * y1 + 3.0 * t * s * s * y2 + s * s * s
            else:
                y_after = 3.0 * s * s * t * y1 + 3.0 * s * t * t * y2 + t * t * t
        width = x_after - x_before
        share = (x - x_before) / width if width > 0.0 else 1.0
        table[i] = y_before + share * (y_after - y_before)
    return table


@njit(nogil=True, cache=True)
def look_up(image, table, low, high):  # type: ignore[no-untyped-def]
    """The table's curve, drawn over [low, high], applied to every voxel; values outside meet its ends."""
    out = np.empty_like(image)
    values, results = image.reshape(-1), out.reshape(-1)
    width = np.float32(high - low)
    to_steps = np.float32(TABLE_STEPS) / width if width > 0 else np.float32(0)
    for i in range(values.size):
        x = min(max((values[i] - low) * to_steps, np.float32(0)), np.float32(TABLE_STEPS))
        k = min(u32(np.int32(x)), u32(TABLE_STEPS - 1))  # unsigned: an index without a check for negative ones
        y = table[k] + (x - np.float32(k)) * (table[u32(k + u32(1))] - table[k])
        results[i] = low + y * width
    return out


@njit(nogil=True, cache=True)
def paint(image, boxes, show, seed_low, seed_high, low, high):  # type: ignore[no-untyped-def]
    """Uniform noise in [low, high): inside the boxes, or outside all of them where ``show``.

    boxes: (K, 6) int64, rows (d0, h0, w0, d1, h1, w1), ends excluded.
    """
    _, height, width = image.shape
    scale = np.float32(high - low)
    out = np.empty_like(image)
    if show:
        flat = out.reshape(-1)
        for i in range(flat.size):
            flat[i] = low + scale * uniform(u32(i), seed_low, seed_high)
    else:
        out[:] = image
    for box in boxes:
        for d in range(box[0], box[3]):
            for h in range(box[1], box[4]):
                if show:
                    for w in range(box[2], box[5]):
                        out[d, h, w] = image[d, h, w]
                else:
                    first = (d * height + h) * width
                    for w in range(box[2], box[5]):
                        out[d, h, w] = low + scale * uniform(u32(first + w), seed_low, seed_high)
    return out


@njit(nogil=True, cache=True)
def uniform_noise(size, seed_low, seed_high):  # type: ignore[no-untyped-def]
    """(size,) float32 in [0, 1)."""
    out = np.empty(size, np.float32)
    for i in range(size):
        out[i] = uniform(u32(i), seed_low, seed_high)
    return out


@lru_cache(maxsize=32)
def smoothing_matrix(side: int, sigma: float) -> np.ndarray:
    """(side, side) float32: a Gaussian cut at 4 sigma, zeros beyond the ends, as SciPy filters an axis."""
    return gaussian_filter1d(np.eye(side), sigma, axis=0, mode="constant").astype(np.float32)


@lru_cache(maxsize=8)
def slice_scale(sigma: float) -> float:
    """What smoothing along the missing depth would do to the noise of a single slice: the kernel's norm."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return float(np.linalg.norm(smoothing_matrix(side, sigma)[side // 2]))


def smooth_displacement(noise: np.ndarray, sigma: float, alpha: float) -> np.ndarray:
    """(2, D, H, W) noise in [-1, 1) to in-plane displacements in voxels along H and W (Simard 2003)."""
    _, depth, height, width = noise.shape
    field = noise @ smoothing_matrix(width, sigma).T
    field = smoothing_matrix(height, sigma) @ field
    if depth == 1:
        return (field * np.float32(alpha * slice_scale(sigma))).astype(np.float32)
    along_depth = smoothing_matrix(depth, sigma) @ field.reshape(2, depth, height * width)
    return (along_depth.reshape(noise.shape) * np.float32(alpha)).astype(np.float32)


@njit(inline="always")
def _reflect(x, n):  # type: ignore[no-untyped-def]
    """A coordinate brought into [-0.5, n - 0.5] by mirrors at both borders."""
    x = (x + np.float32(0.5)) % np.float32(2 * n)
    return min(x, np.float32(2 * n) - x) - np.float32(0.5)


@njit(nogil=True, cache=True)
def warp_in_plane(image, displacement):  # type: ignore[no-untyped-def]
    """(C, D, H, W) read bilinearly at (h, w) + displacement, mirrored beyond the border."""
    channels, depth, height, width = image.shape
    out = np.empty_like(image)
    for d in range(depth):
        for h in range(height):
            for w in range(width):
                y = _reflect(np.float32(h) + displacement[0, d, h, w], height)
                x = _reflect(np.float32(w) + displacement[1, d, h, w], width)
                fy, fx = np.floor(y), np.floor(x)
                wy, wx = y - fy, x - fx
                y0, x0 = max(np.int64(fy), 0), max(np.int64(fx), 0)
                y1, x1 = min(np.int64(fy) + 1, height - 1), min(np.int64(fx) + 1, width - 1)
                for c in range(channels):
                    top = image[c, d, y0, x0] * (1 - wx) + image[c, d, y0, x1] * wx
                    bottom = image[c, d, y1, x0] * (1 - wx) + image[c, d, y1, x1] * wx
                    out[c, d, h, w] = top * (1 - wy) + bottom * wy
    return out
