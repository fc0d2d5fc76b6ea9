"""Genesis transformations: corrupt a patch so that a network learns anatomy by restoring it.

Models Genesis (Zhou et al. 2019, doi:10.1007/978-3-030-32251-9_42; 2021, doi:10.1016/j.media.2020.101840)
mirrors a patch, shuffles voxels within many small windows, bends its intensities along a random
Bezier curve, and paints noise over blocks (in-painting) or over all but some blocks (out-painting);
the mirrored patch is the target. Semantic Genesis (Haghighi et al. 2020,
doi:10.1007/978-3-030-59710-8_14) deforms elastically, then does exactly one of the four; the patch
itself is the target.

Patches are (C, D, H, W) or (C, H, W), float32 in [0, 1] unless ``percentiles`` is set. A 2D patch is a
3D one of a single slice. ``sample_*`` draw parameters from a generator (genesis_sampling.py),
``apply_*`` are deterministic and take C order.
``transform_pair`` and ``transform_batch`` run compiled on the CPU (genesis_cpu.py);
``transform_on_device`` takes a tensor where it lies (genesis_torch.py) and computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pretraining.genesis import cpu as genesis_cpu
from pretraining.genesis import device as genesis_torch
from pretraining.genesis.sampling import (
    FOUR,
    METHODS,
    ChannelCorruption,
    Corruption,
    Curve,
    GenesisError,
    GenesisSettings,
    Painting,
    sample,
    sample_curve,
    sample_flip,
    sample_painting,
)

__all__ = [
    "FOUR",
    "METHODS",
    "ChannelCorruption",
    "Corruption",
    "Curve",
    "GenesisError",
    "GenesisSettings",
    "Painting",
    "apply",
    "apply_curve",
    "apply_elastic",
    "apply_flip",
    "apply_painting",
    "apply_shuffle",
    "sample",
    "sample_curve",
    "sample_flip",
    "sample_painting",
    "transform_batch",
    "transform_on_device",
    "transform_pair",
]


def longest_sides(shape_dhw: Sequence[int], settings: GenesisSettings) -> tuple[int, int, int]:
    """The largest shuffled window. Sides of a patch below twice the divisor shuffle nothing along them."""
    depth, height, width = (max(1, side // settings.shuffle_divisor) for side in shape_dhw)
    return depth, height, width


def apply_flip(image_cdhw: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Mirror axes of (D, H, W). C order, a copy."""
    return np.ascontiguousarray(np.flip(image_cdhw, tuple(axis + 1 for axis in axes)))


def apply_shuffle(image_dhw: np.ndarray, seed: int, settings: GenesisSettings) -> np.ndarray:
    """Each of ``shuffle_windows`` windows gets its untouched voxels in a random order, later over earlier."""
    low, high = genesis_cpu.words(seed)
    longest = longest_sides(image_dhw.shape, settings)
    return genesis_cpu.shuffle(image_dhw, low, high, settings.shuffle_windows, longest)


def apply_curve(image_dhw: np.ndarray, curve: Curve, ends: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Bend intensities along the curve, drawn over ``ends``, by a table of 4097 places."""
    table = genesis_cpu.curve_table(*curve.control, curve.inverted)
    return genesis_cpu.look_up(image_dhw, table, np.float32(ends[0]), np.float32(ends[1]))


def apply_painting(image_dhw: np.ndarray, painting: Painting, ends: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Uniform noise over ``ends`` inside the boxes, or outside all of them where ``painting.show``."""
    boxes = np.array(painting.boxes, np.int64).reshape(-1, 6)
    low, high = genesis_cpu.words(painting.seed)
    return genesis_cpu.paint(image_dhw, boxes, painting.show, low, high, np.float32(ends[0]), np.float32(ends[1]))


def elastic_noise(shape_dhw: Sequence[int], seed: int) -> np.ndarray:
    """(2, D, H, W) float32, uniform in [-1, 1)."""
    noise = genesis_cpu.uniform_noise(2 * int(np.prod(shape_dhw)), *genesis_cpu.words(seed))
    return (2 * noise - 1).reshape(2, *shape_dhw)


def apply_elastic(image_cdhw: np.ndarray, noise: np.ndarray, settings: GenesisSettings) -> np.ndarray:
    """In-plane deformation by smoothed noise (2, D, H, W); linear, mirrored beyond the border.

    The noise is smoothed along all three axes, with zeros around it, then scaled by alpha.
    """
    field = genesis_cpu.smooth_displacement(noise, settings.elastic_sigma, settings.elastic_alpha)
    return genesis_cpu.warp_in_plane(image_cdhw, field)


def apply(patch_cdhw: np.ndarray, corruption: Corruption, settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, target) of a (C, D, H, W) patch, both new arrays."""
    target = apply_flip(patch_cdhw, corruption.flip_axes)
    image = target
    if corruption.elastic is not None:
        image = apply_elastic(image, elastic_noise(image.shape[1:], corruption.elastic), settings)
    out = np.empty_like(image)
    for channel, (x, parameters) in enumerate(zip(image, corruption.channels, strict=True)):
        ends = (0.0, 1.0)
        if settings.percentiles is not None:
            ends = tuple(np.percentile(target[channel], settings.percentiles))
        if parameters.shuffle is not None:
            x = apply_shuffle(x, parameters.shuffle, settings)
        if parameters.curve is not None:
            x = apply_curve(x, parameters.curve, ends)
        if parameters.painting is not None:
            x = apply_painting(x, parameters.painting, ends)
        out[channel] = x
    return out, target


def transform_pair(patch: np.ndarray, seed: int, settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, target) of one patch, a pure function of patch, seed and settings.

    Args:
        patch: (C, D, H, W) or (C, H, W), float32, in [0, 1] unless ``settings.percentiles``.

    Raises:
        GenesisError: for other shapes and types.
    """
    if patch.ndim not in (3, 4) or patch.dtype != np.float32 or not patch.size:
        raise GenesisError(f"a Genesis patch is float32 (C, D, H, W) or (C, H, W), found {patch.dtype} {patch.shape}")
    corruption = sample(np.random.default_rng(seed), patch.shape, settings)
    shape_cdhw = (patch.shape[0], *(1, *patch.shape[1:])[-3:])
    corrupted, target = apply(np.ascontiguousarray(patch).reshape(shape_cdhw), corruption, settings)
    return corrupted.reshape(patch.shape), target.reshape(patch.shape)


def transform_batch(
    patches: np.ndarray, seeds: Sequence[int], settings: GenesisSettings
) -> tuple[np.ndarray, np.ndarray]:
    """``transform_pair`` for (N, C, ...) patches, one seed each."""
    if len(patches) != len(seeds):
        raise GenesisError(f"{len(patches)} patches need as many seeds, found {len(seeds)}")
    corrupted, targets = np.empty_like(patches), np.empty_like(patches)
    for i, (patch, seed) in enumerate(zip(patches, seeds, strict=True)):
        corrupted[i], targets[i] = transform_pair(patch, seed, settings)
    return corrupted, targets


def transform_on_device(
    patches: torch.Tensor, seeds: Sequence[int], settings: GenesisSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """``transform_batch`` for a tensor (N, C, D, H, W) or (N, C, H, W), on the tensor's own device.

    Draws the same parameters and computes the same values within 1e-5 of a curve's range.
    """
    if patches.ndim not in (4, 5) or patches.dtype != torch.float32 or len(patches) != len(seeds):
        raise GenesisError(
            "a Genesis batch is float32 (N, C, D, H, W) or (N, C, H, W) with a seed for each patch, "
            f"found {patches.dtype} {tuple(patches.shape)} and {len(seeds)} seeds"
        )
    drawn = [sample(np.random.default_rng(seed), patches.shape[1:], settings) for seed in seeds]
    batch = patches.unsqueeze(2) if patches.ndim == 4 else patches
    target = genesis_torch.flip(batch, [each.flip_axes for each in drawn])
    image = target
    if "elastic" in settings.methods:
        elastic_seeds = [each.elastic or 0 for each in drawn]
        image = genesis_torch.deform(image, elastic_seeds, settings.elastic_sigma, settings.elastic_alpha)
    rows = [channel for each in drawn for channel in each.channels]
    corrupted = genesis_torch.corrupt(
        image.reshape(-1, *image.shape[2:]),
        genesis_torch.quantile_ends(target.reshape(-1, *image.shape[2:]), settings.percentiles),
        shuffle_seeds=[row.shuffle for row in rows],
        windows=settings.shuffle_windows,
        longest=longest_sides(image.shape[2:], settings),
        curves=[None if row.curve is None else (row.curve.control, row.curve.inverted) for row in rows],
        paintings=[None if (p := row.painting) is None else (p.boxes, p.show, p.seed) for row in rows],
    )
    return corrupted.reshape(patches.shape), target.reshape(patches.shape)
