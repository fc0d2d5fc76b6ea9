"""The Genesis transformations of a batch where it lies: plain torch, and Triton kernels on CUDA.

R rows, each one channel of one patch, (R, D, H, W) float32. A row's shuffle is two passes over its
voxels: an owner map (the last window that covers a voxel, by maximum), then each voxel fetches its
source once; windows and their permutations are functions of (seed, window, position), see
genesis_cpu.py, so that nothing is stored for them. On CUDA the second pass also bends and paints.
32-bit words are held in int64 in the torch code.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from pretraining.genesis.cpu import CURVE_POINTS, TABLE_STEPS, WORD, slice_scale, smoothing_matrix, words

Boxes = Sequence[tuple[int, int, int, int, int, int]]
Paint = tuple[Boxes, bool, int]
CurveSpec = tuple[tuple[float, float, float, float], bool]


def _mix(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & WORD
    x = ((x ^ (x >> 15)) * 0x735A2D97) & WORD
    return x ^ (x >> 15)


def _hash(counter: Tensor, seeds: Tensor) -> Tensor:
    """seeds: (..., 2), low and high word."""
    return _mix((_mix(counter ^ seeds[..., 0]) + seeds[..., 1]) & WORD)


def uniform_noise(seeds: Tensor, size: int) -> Tensor:
    """(R, 2) seeds to (R, size) float32 in [0, 1)."""
    return (_hash(torch.arange(size, device=seeds.device), seeds[:, None]) >> 8).float() * 2.0**-24


def seed_words(seeds: Sequence[int], device: torch.device) -> Tensor:
    """(R, 2) int64: low and high word."""
    return torch.tensor(np.array([words(seed) for seed in seeds], np.int64).reshape(-1, 2), device=device)


def window_geometry(
    window: Tensor, seeds: Tensor, shape: Sequence[int], longest: Sequence[int]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Sides (..., 3) and starts (..., 3) of windows by number, and the two keys of their permutation."""
    draws = [_hash(3 * window + axis, seeds) for axis in range(3)]
    sides = torch.stack([1 + (((h >> 16) * m) >> 16) for h, m in zip(draws, longest, strict=True)], -1)
    room = torch.tensor(shape, device=window.device) - sides + 1
    starts = ((torch.stack(draws, -1) & 0xFFFF) * room) >> 16
    return sides, starts, (_mix(draws[0] ^ draws[1]), _mix((draws[1] + draws[2]) & WORD))


def permute(i: Tensor, n: Tensor, keys: tuple[Tensor, Tensor]) -> Tensor:
    """Where a keyed permutation of n elements sends i. A bijection of the next power of two, until below n."""
    mask = n - 1
    for bits in (1, 2, 4, 8, 16):
        mask = mask | (mask >> bits)
    shift = torch.ones_like(mask)
    for bits in (3, 5, 7, 9, 11, 13, 15, 17, 19):
        shift = shift + ((mask >> (bits - 1)) != 0)
    rounds = [(key >> drop | 1, key >> (16 + drop)) for drop in (0, 8) for key in keys]
    out, todo = i, torch.ones_like(i, dtype=torch.bool)
    while todo.any():
        j = out
        for factor, term in rounds:
            j = (j * factor + term) & mask
            j = j ^ (j >> shift)
        out = torch.where(todo, j, out)
        todo = out >= n
    return out


def owner_map(seeds: Tensor, shape: Sequence[int], windows: int, longest: Sequence[int]) -> Tensor:
    """(R, D*H*W): 1 + the last window that covers each voxel, 0 for none."""
    device = seeds.device
    sides, starts, _ = window_geometry(torch.arange(windows, device=device), seeds[:, None], shape, longest)
    inside = torch.cartesian_prod(*(torch.arange(side, device=device) for side in longest)).reshape(-1, 3)
    strides = torch.tensor((shape[1] * shape[2], shape[2], 1), device=device)
    owner = torch.zeros(len(seeds), shape[0] * shape[1] * shape[2], dtype=torch.int64, device=device)
    number = torch.arange(1, windows + 1, device=device)[:, None].expand(-1, len(inside))
    for row in range(len(seeds)):
        covered = (inside < sides[row, :, None]).all(-1)
        voxels = ((starts[row, :, None] + inside) * strides).sum(-1)
        owner[row].scatter_reduce_(0, voxels[covered], number[covered], "amax")
    return owner


def shuffle_sources(seeds: Tensor, shape: Sequence[int], windows: int, longest: Sequence[int]) -> Tensor:
    """(R, D*H*W): the flat index that each voxel's value comes from."""
    owner = owner_map(seeds, shape, windows, longest)
    row, voxel = torch.nonzero(owner, as_tuple=True)
    sides, starts, keys = window_geometry(owner[row, voxel] - 1, seeds[row], shape, longest)
    place = torch.stack((voxel // (shape[1] * shape[2]), voxel // shape[2] % shape[1], voxel % shape[2]), -1) - starts
    side_d, side_h, side_w = sides.unbind(-1)
    position = permute((place[:, 0] * side_h + place[:, 1]) * side_w + place[:, 2], side_d * side_h * side_w, keys)
    source = torch.stack((position // (side_h * side_w), position // side_w % side_h, position % side_w), -1) + starts
    out = torch.arange(owner.shape[1], device=seeds.device).repeat(len(seeds), 1)
    out[row, voxel] = (source[:, 0] * shape[1] + source[:, 1]) * shape[2] + source[:, 2]
    return out


def curve_tables(curves: Sequence[CurveSpec | None], device: torch.device) -> Tensor:
    """(R, 4097) float32, see genesis_cpu.curve_table; None is the identity."""
    straight = ((1 / 3, 1 / 3, 2 / 3, 2 / 3), False)
    specs = [curve or straight for curve in curves]
    control = torch.tensor([control for control, _ in specs], dtype=torch.float64, device=device)
    t = torch.linspace(0, 1, CURVE_POINTS + 1, dtype=torch.float64, device=device)
    basis = torch.stack((3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3))
    ones = torch.ones_like(control[:, :1])
    x = torch.cat((control[:, 0::2], ones), 1) @ basis
    y = torch.cat((control[:, 1::2], ones), 1) @ basis
    inverted = torch.tensor([falling for _, falling in specs], device=device)[:, None]
    y = torch.where(inverted, y.flip(1), y)
    grid = (torch.arange(TABLE_STEPS + 1, device=device, dtype=torch.float64) / TABLE_STEPS).repeat(len(specs), 1)
    after = torch.searchsorted(x, grid).clamp(1, CURVE_POINTS)
    before = after - 1
    x0, x1, y0, y1 = x.gather(1, before), x.gather(1, after), y.gather(1, before), y.gather(1, after)
    share = torch.where(x1 > x0, (grid - x0) / (x1 - x0).clamp_min(1e-300), 1.0)
    return (y0 + share * (y1 - y0)).float()


def box_tensors(paintings: Sequence[Paint | None], device: torch.device) -> tuple[Tensor, Tensor]:
    """(R, K, 6) int32, empty boxes as padding, and (R,) int32: 0 nothing, 1 noise in the boxes, 2 around them."""
    most = max((len(each[0]) for each in paintings if each), default=0)
    boxes = np.zeros((len(paintings), max(most, 1), 6), np.int32)
    kinds = np.zeros(len(paintings), np.int32)
    for row, each in enumerate(paintings):
        if each is not None:
            boxes[row, : len(each[0])] = np.array(each[0], np.int32).reshape(-1, 6)
            kinds[row] = 2 if each[1] else 1
    return torch.from_numpy(boxes).to(device), torch.from_numpy(kinds).to(device)


def inside_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """(R, K, 6) to (R, D, H, W) bool."""
    along = []
    for axis, side in enumerate(shape):
        place = torch.arange(side, device=boxes.device)
        along.append((place >= boxes[..., axis, None]) & (place < boxes[..., axis + 3, None]))
    depth, height, width = along
    mask = torch.zeros(len(boxes), *shape, dtype=torch.bool, device=boxes.device)
    for k in range(boxes.shape[1]):
        mask |= depth[:, k, :, None, None] & height[:, k, None, :, None] & width[:, k, None, None, :]
    return mask


def flip(batch: Tensor, axes: Sequence[Sequence[int]]) -> Tensor:
    """Mirror each patch of (N, C, D, H, W) along its own axes of (D, H, W). A copy."""
    return torch.stack([patch.flip([axis + 1 for axis in own]) for patch, own in zip(batch, axes, strict=True)])


def deform(batch: Tensor, seeds: Sequence[int], sigma: float, alpha: float) -> Tensor:
    """Elastic deformation of (N, C, D, H, W) in-plane, see genesis_cpu.smooth_displacement and warp_in_plane."""
    n, channels, depth, height, width = batch.shape
    noise = 2 * uniform_noise(seed_words(seeds, batch.device), 2 * depth * height * width) - 1
    along = [torch.from_numpy(smoothing_matrix(side, sigma)).to(batch.device) for side in (depth, height, width)]
    field = along[1] @ (noise.reshape(n, 2, depth, height, width) @ along[2].T)
    if depth == 1:
        field = field * slice_scale(sigma)
    else:
        field = (along[0] @ field.reshape(n, 2, depth, height * width)).reshape(field.shape)
    corners = []
    for axis, side in enumerate((height, width)):
        place = torch.arange(side, device=batch.device).reshape((-1, 1) if axis == 0 else (1, -1))
        turned = (place + alpha * field[:, axis] + 0.5).remainder(2 * side)
        coordinate = torch.minimum(turned, 2 * side - turned) - 0.5
        floor = coordinate.floor()
        corners.append((floor.long().clamp_min(0), (floor.long() + 1).clamp_max(side - 1), coordinate - floor))
    (y0, y1, wy), (x0, x1, wx) = corners
    slices = batch.reshape(n, channels, depth, height * width)

    def read(y: Tensor, x: Tensor) -> Tensor:
        index = (y * width + x).reshape(n, 1, depth, -1).expand(-1, channels, -1, -1)
        return slices.gather(3, index).reshape(batch.shape)

    wy, wx = wy[:, None], wx[:, None]
    top, bottom = read(y0, x0) * (1 - wx) + read(y0, x1) * wx, read(y1, x0) * (1 - wx) + read(y1, x1) * wx
    return top * (1 - wy) + bottom * wy


def quantile_ends(rows: Tensor, percentiles: tuple[float, float] | None) -> Tensor:
    """(R, 2) float32: the percentiles of each row, interpolated; 0 and 1 for None."""
    if percentiles is None:
        return torch.tensor([[0.0, 1.0]], device=rows.device).repeat(len(rows), 1)
    ordered = rows.reshape(len(rows), -1).sort(1).values
    place = torch.tensor(percentiles, dtype=torch.float64, device=rows.device) / 100 * (ordered.shape[1] - 1)
    low = place.floor().long()
    share = (place - low).float()
    return ordered[:, low] * (1 - share) + ordered[:, (low + 1).clamp_max(ordered.shape[1] - 1)] * share


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """The Triton kernels, where Triton is there."""
    if importlib.util.find_spec("triton") is None:
        return None
    from pretraining.genesis import triton_kernels as genesis_triton

    return genesis_triton


def corrupt(
    rows: Tensor,
    ends: Tensor,
    *,
    shuffle_seeds: Sequence[int | None],
    windows: int,
    longest: Sequence[int],
    curves: Sequence[CurveSpec | None],
    paintings: Sequence[Paint | None],
) -> Tensor:
    """Shuffle, bend and paint each row of (R, D, H, W) by its own parameters; None leaves a step out.

    ends: (R, 2), the range that the curve spans and the noise fills.
    """
    device, shape = rows.device, rows.shape[1:]
    kernels = _kernels() if device.type == "cuda" else None
    if kernels is not None:
        return kernels.corrupt(rows, ends, shuffle_seeds, windows, longest, curves, paintings)
    out = rows.clone().flatten(1)
    shuffled = [row for row, seed in enumerate(shuffle_seeds) if seed is not None]
    if shuffled:
        seeds = seed_words([seed for seed in shuffle_seeds if seed is not None], device)
        out[shuffled] = out[shuffled].gather(1, shuffle_sources(seeds, shape, windows, longest))
    low, width = ends[:, :1], ends[:, 1:] - ends[:, :1]
    bent = [row for row, curve in enumerate(curves) if curve is not None]
    if bent:
        tables = curve_tables([curves[row] for row in bent], device)
        steps = torch.where(width[bent] > 0, TABLE_STEPS / width[bent], 0.0)
        x = ((out[bent] - low[bent]) * steps).clamp(0, TABLE_STEPS)
        k = x.long().clamp_max(TABLE_STEPS - 1)
        left, right = tables.gather(1, k), tables.gather(1, k + 1)
        out[bent] = low[bent] + (left + (x - k) * (right - left)) * width[bent]
    painted = [row for row, painting in enumerate(paintings) if painting is not None]
    if painted:
        chosen = [paintings[row] for row in painted]
        boxes, kinds = box_tensors(chosen, device)
        noise = uniform_noise(seed_words([each[2] for each in chosen if each], device), out.shape[1])
        noisy = inside_boxes(boxes, shape).flatten(1) ^ (kinds == 2)[:, None]
        out[painted] = torch.where(noisy, low[painted] + noise * width[painted], out[painted])
    return out.reshape(rows.shape)
