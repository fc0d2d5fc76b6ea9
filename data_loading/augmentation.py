"""nnU-Net's augmentations as DALI graph functions, their parameters coming in as data.

Images are (C, *axes) float32 with layout "CDHW" or "CHW"; every function keeps shape and layout and runs
on the device that holds the image. Under ``enable_conditionals`` a patch that lost its coin flip costs
nothing. Order and formulas: nnU-Net v2, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dmath

from data_loading.kernels import HASH_1, HASH_2, SEED_STEP
from data_loading.sampling import Intensity

Node = Any  # DALI's DataNode
TINY = 1e-7


def pack(intensity: Intensity) -> np.ndarray:
    """The flat float32 vector that :func:`augment_intensity` takes; see :func:`unpack_slices`."""
    return np.concatenate(
        [
            intensity.blur.reshape(-1),
            *(intensity.brightness, intensity.contrast, intensity.zoom, intensity.gamma_inverted, intensity.gamma),
        ]
    ).astype(np.float32, copy=False)


def unpack_slices(channels: int, axes: int) -> dict[str, int]:
    """Where each effect starts in the vector of :func:`pack`: blur has C * axes entries, the others C."""
    first = channels * axes
    names = ("brightness", "contrast", "zoom", "gamma_inverted", "gamma")
    return {"blur": 0} | {name: first + i * channels for i, name in enumerate(names)}


def augment_intensity(image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
    """Blur, brightness, contrast, low resolution and both gammas, in nnU-Net's order.

    Args:
        image: (C, *axes).
        parameters: the vector of :func:`pack`, on the CPU.
        shape: the image's shape.
        in_plane: low resolution leaves the first of three axes alone.
    """
    channels, axes = shape[0], len(shape) - 1
    at = unpack_slices(channels, axes)
    spatial = list(range(1, axes + 1))
    image = by_channel(image, parameters, at["blur"], axes, channels, gaussian_blur)
    if parameters[at["brightness"]] > 0:
        image = image * factor(parameters, at["brightness"], channels, axes, image)
    if parameters[at["contrast"]] > 0:
        image = contrast(image, factor(parameters, at["contrast"], channels, axes, image), spatial)
    coarse = low_resolution(shape, in_plane)
    image = by_channel(image, parameters, at["zoom"], 1, channels, coarse)
    if parameters[at["gamma_inverted"]] > 0:
        image = -gamma(-image, factor(parameters, at["gamma_inverted"], channels, axes, image), spatial)
    if parameters[at["gamma"]] > 0:
        image = gamma(image, factor(parameters, at["gamma"], channels, axes, image), spatial)
    return image
