"""Genesis transformations: corrupt a patch so that a network learns anatomy by restoring it.

Models Genesis (Zhou et al. 2019, doi:10.1007/978-3-030-32251-9_42; 2021, doi:10.1016/j.media.2020.101840)
mirrors a patch, shuffles voxels within many small windows, bends its intensities along a random
Bezier curve, and paints noise over blocks (in-painting) or over all but some blocks (out-painting);
the mirrored patch is the target. Semantic Genesis (Haghighi et al. 2020,
doi:10.1007/978-3-030-59710-8_14) deforms elastically, then does exactly one of the four; the patch
itself is the target.

Patches are (C, D, H, W) or (C, H, W), float32 in [0, 1] unless ``percentiles`` is set. A 2D patch is a
3D one of a single slice. ``sample_*`` draw parameters from a generator (sampling.py), ``apply_*`` are
deterministic and take C order. This is the form that DALI's workers run, compiled (cpu.py); device.py
computes the same for a batch on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_loading.hashing import words
from pretraining.genesis import cpu
from pretraining.genesis.sampling import Curve, Drawn, GenesisError, GenesisSettings, Painting, sample

if TYPE_CHECKING:
    pass


def longest_sides(shape_dhw: Sequence[int], settings: GenesisSettings) -> tuple[int, int, int]:
    """The largest shuffled window. Sides of a patch below twice the divisor shuffle nothing along them."""
    depth, height, width = (max(1, side // settings.shuffle_divisor) for side in shape_dhw)
    return depth, height, width


def apply_flip(image_cdhw: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Mirror axes of (D, H, W). C order, a copy."""
    return np.ascontiguousarray(np.flip(image_cdhw, tuple(axis + 1 for axis in axes)))


def apply_shuffle(image_dhw: np.ndarray, seed: int, settings: GenesisSettings) -> np.ndarray:
    """Each of ``shuffle_windows`` windows gets its untouched voxels in a random order, later over earlier."""
    low, high = words(seed)
    longest = longest_sides(image_dhw.shape, settings)
    return cpu.shuffle(image_dhw, low, high, settings.shuffle_windows, longest)


def apply_curve(image_dhw: np.ndarray, curve: Curve, ends: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Bend intensities along the curve, drawn over ``ends``, by a table of 4097 places."""
    table = cpu.curve_table(*curve.control, curve.inverted)
    return cpu.look_up(image_dhw, table, np.float32(ends[0]), np.float32(ends[1]))


def apply_painting(image_dhw: np.ndarray, painting: Painting, ends: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Uniform noise over ``ends`` inside the boxes, or outside all of them where ``painting.show``."""
    boxes = np.array(painting.boxes, np.int64).reshape(-1, 6)
    low, high = words(painting.seed)
    return cpu.paint(image_dhw, boxes, painting.show, low, high, np.float32(ends[0]), np.float32(ends[1]))


def elastic_noise(shape_dhw: Sequence[int], seed: int) -> np.ndarray:
    """(2, D, H, W) float32, uniform in [-1, 1)."""
    noise = cpu.uniform_noise(2 * int(np.prod(shape_dhw)), *words(seed))
    return (2 * noise - 1).reshape(2, *shape_dhw)


def apply_elastic(image_cdhw: np.ndarray, noise: np.ndarray, settings: GenesisSettings) -> np.ndarray:
    """In-plane deformation by smoothed noise (2, D, H, W); linear, mirrored beyond the border.

    The noise is smoothed along all three axes, with zeros around it, then scaled by alpha.
    """
    field = cpu.smooth_displacement(noise, settings.elastic_sigma, settings.elastic_alpha)
    return cpu.warp_in_plane(image_cdhw, field)


def apply(patch_cdhw: np.ndarray, drawn: Drawn, settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, target) of a (C, D, H, W) patch, both new arrays."""
    target = apply_flip(patch_cdhw, drawn.flip_axes)
    image = target
    if drawn.elastic is not None:
        image = apply_elastic(image, elastic_noise(image.shape[1:], drawn.elastic), settings)
    out = np.empty_like(image)
    for channel, (x, parameters) in enumerate(zip(image, drawn.channels, strict=True)):
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
    drawn = sample(np.random.default_rng(seed), patch.shape, settings)
    shape_cdhw = (patch.shape[0], *(1, *patch.shape[1:])[-3:])
    corrupted, target = apply(np.ascontiguousarray(patch).reshape(shape_cdhw), drawn, settings)
    return corrupted.reshape(patch.shape), target.reshape(patch.shape)
