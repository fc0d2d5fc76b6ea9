"""The Genesis transformations of a batch where it lies: torch, and Triton kernels on CUDA.

R rows, each one channel of one patch, (R, D, H, W) float32. Parameters come as the arrays of packing.py, on the
batch's device: nothing here waits for it. Mirroring, deformation and percentiles are plain torch; shuffling, bending,
painting and noise are Triton's on CUDA. On the CPU, where tests look at packing and torch alone, the compiled kernels
of cpu.py take Triton's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.genesis import cpu
from pretraining.genesis.packing import AROUND, BENT, BOXES, ELASTIC, PAINT_SEED, PAINTED, SHUFFLE_SEED, SHUFFLED, pack
from pretraining.genesis.sampling import GenesisError, GenesisSettings, sample
from pretraining.genesis.transforms import longest_sides


def transform_on_device(patches: Tensor, seeds: Sequence[int], settings: GenesisSettings) -> tuple[Tensor, Tensor]:
    """``transforms.transform_pair`` of (N, C, D, H, W) or (N, C, H, W), one seed each, on the tensor's own device.

    Draws the same parameters and computes the same values within 1e-5 of a curve's range. The loader's workers draw
    beforehand instead, see corruption.py.
    """
    if patches.ndim not in (4, 5) or patches.dtype != torch.float32 or len(patches) != len(seeds):
        raise GenesisError(
            "a Genesis batch is float32 (N, C, D, H, W) or (N, C, H, W) with a seed for each patch, "
            f"found {patches.dtype} {tuple(patches.shape)} and {len(seeds)} seeds"
        )
    drawn = (pack(sample(np.random.default_rng(seed), patches.shape[1:], settings), settings) for seed in seeds)
    arrays = [torch.from_numpy(np.stack(alike)).to(patches.device) for alike in zip(*drawn, strict=True)]
    return corrupt_batch(patches, arrays, settings)


def corrupt_batch(patches: Tensor, drawn: Sequence[Tensor], settings: GenesisSettings) -> tuple[Tensor, Tensor]:
    """(corrupted, target) of a batch; ``drawn``: packing.py's arrays, each with a first axis N."""
    patch, channels, tables = drawn
    batch = patches.unsqueeze(2) if patches.ndim == 4 else patches
    target = flip(batch, patch[:, :ELASTIC]) if "flip" in settings.transformations else batch
    image = target
    if "elastic" in settings.transformations:
        image = deform(image, patch[:, ELASTIC:].contiguous(), settings.elastic_sigma, settings.elastic_alpha)
    rows = image.reshape(-1, *image.shape[2:])
    corrupted = corrupt(
        rows,
        quantile_ends(target.reshape(rows.shape), settings.percentiles),
        channels.reshape(len(rows), -1),
        tables.reshape(len(rows), -1),
        windows=settings.shuffle_windows if "shuffle" in settings.transformations else 0,
        longest=longest_sides(rows.shape[1:], settings),
    )
    return corrupted.reshape(patches.shape), target.reshape(patches.shape)


def flip(batch: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror each patch of (N, C, D, H, W) along the axes that its row of (N, 3) marks. A copy."""
    n, channels = batch.shape[:2]
    index = [_along(torch.arange(n, device=batch.device), 0), _along(torch.arange(channels, device=batch.device), 1)]
    for axis, side in enumerate(batch.shape[2:]):
        place = torch.arange(side, device=batch.device)
        place = torch.where(mirrored[:, axis, None] != 0, side - 1 - place, place)
        index.append(place.reshape(n, *(side if each == axis + 1 else 1 for each in range(4))))
    return batch[tuple(index)]


def _along(numbers: Tensor, axis: int) -> Tensor:
    return numbers.reshape(*(-1 if each == axis else 1 for each in range(5)))


def deform(batch: Tensor, seeds: Tensor, sigma: float, alpha: float) -> Tensor:
    """Elastic deformation of (N, C, D, H, W) in-plane, see cpu.smooth_displacement and cpu.warp_in_plane."""
    n, channels, depth, height, width = batch.shape
    noise = 2 * uniform_noise(seeds, 2 * depth * height * width) - 1
    along = [smoothing_on(side, sigma, batch.device) for side in (depth, height, width)]
    field = along[1] @ (noise.reshape(n, 2, depth, height, width) @ along[2].T)
    if depth == 1:
        field = field * cpu.slice_scale(sigma)
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


@lru_cache(maxsize=32)
def smoothing_on(side: int, sigma: float, device: torch.device) -> Tensor:
    """cpu.smoothing_matrix, moved to the device once."""
    return torch.from_numpy(cpu.smoothing_matrix(side, sigma)).to(device)


def quantile_ends(rows: Tensor, percentiles: Sequence[float] | None) -> Tensor:
    """(R, 2) float32: the percentiles of each row, interpolated; 0 and 1 for None."""
    if percentiles is None:
        return torch.arange(2.0, device=rows.device).repeat(len(rows), 1)
    ordered = rows.reshape(len(rows), -1).sort(1).values
    ends = []
    for percentile in percentiles:
        place = percentile / 100 * (ordered.shape[1] - 1)
        low = int(place)
        share = place - low
        ends.append(ordered[:, low] * (1 - share) + ordered[:, min(low + 1, ordered.shape[1] - 1)] * share)
    return torch.stack(ends, 1)


def uniform_noise(seeds: Tensor, size: int) -> Tensor:
    """(R, 2) words of seeds to (R, size) float32 in [0, 1)."""
    if seeds.device.type == "cuda":
        return _kernels().uniform_noise(seeds, size)
    rows = [cpu.uniform_noise(size, low, high) for low, high in seeds.numpy().view(np.uint32)]
    return torch.from_numpy(np.stack(rows))


def corrupt(
    rows: Tensor, ends: Tensor, channels: Tensor, tables: Tensor, *, windows: int, longest: Sequence[int]
) -> Tensor:
    """Shuffle, bend and paint each row of (R, D, H, W) by its own parameters.

    Args:
        ends: (R, 2), the range that the curve spans and the noise fills.
        channels, tables: see packing.py, a row each.
        windows: shuffled ones of a patch; 0 where none is ever shuffled.
        longest: sides (D, H, W) of the largest.
    """
    if rows.device.type == "cuda":
        return _kernels().corrupt(rows, ends, channels, tables, windows, longest)
    parameters = zip(rows.numpy(), ends.numpy(), channels.numpy(), tables.numpy(), strict=True)
    return torch.from_numpy(np.stack([_corrupt_row(*each, windows, tuple(longest)) for each in parameters]))


def _corrupt_row(
    x: np.ndarray, ends: np.ndarray, row: np.ndarray, table: np.ndarray, windows: int, longest: tuple[int, ...]
) -> np.ndarray:
    words, (low, high) = row.view(np.uint32), ends
    if row[SHUFFLED]:
        x = cpu.shuffle(x, words[SHUFFLE_SEED], words[SHUFFLE_SEED + 1], windows, longest)
    if row[BENT]:
        x = cpu.look_up(x, table, low, high)
    if row[PAINTED]:
        boxes = row[BOXES:].reshape(-1, 6).astype(np.int64)
        x = cpu.paint(x, boxes, row[PAINTED] == AROUND, words[PAINT_SEED], words[PAINT_SEED + 1], low, high)
    return x


def _kernels() -> Any:
    """The Triton kernels, imported where there is a GPU for them."""
    from pretraining.genesis import triton_kernels

    return triton_kernels
