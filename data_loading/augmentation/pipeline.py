"""nnU-Net's augmentations as DALI graph functions, their parameters coming in as data.

Images are (C, *axes) float32 with layout "CDHW" or "CHW"; every function keeps shape and layout and runs
on the device that holds the image. Under ``enable_conditionals`` a patch that lost its coin flip costs
nothing. Order and formulas: nnU-Net v2, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dmath

from data_loading.augmentation.kernels import HASH_1, HASH_2, SEED_STEP
from data_loading.sources.sampling import Intensity

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


def by_channel(image: Node, parameters: Node, start: int, width: int, channels: int, effect: Any) -> Node:
    """Apply ``effect(channel, its parameters)`` to those channels whose first parameter is above 0."""
    done = []
    for c in range(channels):
        channel = image[c : c + 1]
        first = start + c * width
        if parameters[first] > 0:
            channel = effect(channel, parameters[first : first + width])
        done.append(channel)
    return fn.cat(*done, axis=0) if channels > 1 else done[0]


def factor(parameters: Node, start: int, channels: int, axes: int, image: Node) -> Node:
    """One number a channel, shaped to broadcast over (C, *axes), where the image is."""
    column = fn.reshape(parameters[start : start + channels], shape=[channels, *[1] * axes], layout="")
    return column.gpu() if image.device == "gpu" else column


def gaussian_blur(image: Node, sigma: Node) -> Node:
    """Blur with a standard deviation, in voxels, for each axis."""
    return fn.gaussian_blur(image, sigma=sigma)


def contrast(image: Node, factors: Node, spatial: Sequence[int]) -> Node:
    """Stretch about the mean and clamp to the range that the image had."""
    low, high, mean = (reduce(image, axes=spatial, keep_dims=True) for reduce in STATISTICS)
    return dmath.clamp((image - mean) * factors + mean, low, high)


def gamma(image: Node, exponents: Node, spatial: Sequence[int]) -> Node:
    """Raise the image, scaled to [0, 1], to a power; its range is restored, then its mean and deviation."""
    low, high, mean = (reduce(image, axes=spatial, keep_dims=True) for reduce in STATISTICS)
    deviation = fn.reductions.std_dev(image, mean, axes=spatial, keep_dims=True)
    # The range is restored by the deviation below, so the power works on [0, 1] alone.
    curved = dmath.fpow((image - low) / dmath.max(high - low, TINY), exponents)
    new_mean = fn.reductions.mean(curved, axes=spatial, keep_dims=True)
    new_deviation = fn.reductions.std_dev(curved, new_mean, axes=spatial, keep_dims=True)
    return (curved - new_mean) * (deviation / dmath.max(new_deviation, TINY)) + mean


STATISTICS = (fn.reductions.min, fn.reductions.max, fn.reductions.mean)


def low_resolution(shape: Sequence[int], in_plane: bool) -> Any:
    """A function that samples a channel on a coarser grid, nearest, and back again, linearly."""
    sides = list(shape[1:])
    fixed = np.array([in_plane and len(sides) == 3, *[False] * (len(sides) - 1)])
    moving, still = (np.where(mask, sides, 0).astype(np.float32) for mask in (~fixed, fixed))

    def apply(image: Node, zoom: Node) -> Node:
        size = dmath.floor(types.Constant(moving) * zoom[0] + types.Constant(still) + 0.5)
        size = dmath.max(size, 1.0)
        coarse: Node = fn.resize(image, size=size, interp_type=types.DALIInterpType.INTERP_NN, antialias=False)
        return fn.resize(coarse, size=sides, interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=False)

    return apply


def warp(image: Node, matrix: Node, sides: Sequence[int], interpolation: Any) -> Node:
    """Resample (C, *axes) on the grid of ``matrix`` (see sampling.dali_matrix); outside is 0."""
    axes = len(sides)
    last = fn.transpose(image, perm=[*range(1, axes + 1), 0])
    warped = fn.warp_affine(
        last, matrix=matrix, size=list(sides), interp_type=interpolation, fill_value=0, inverse_map=True
    )
    return fn.transpose(warped, perm=[axes, *range(axes)])


def warp_image(image: Node, matrix: Node, sides: Sequence[int]) -> Node:
    """Linear, as kernels.warp_image."""
    return warp(image, matrix, sides, types.DALIInterpType.INTERP_LINEAR)


def warp_label(label: Node, matrix: Node, sides: Sequence[int]) -> Node:
    """Nearest, as kernels.warp_label."""
    return warp(label, matrix, sides, types.DALIInterpType.INTERP_NN)


def add_noise(image: Node, seed: Node, std: Node, shape: Sequence[int]) -> Node:
    """Gaussian noise that is a function of ``seed``, a (1,) uint32 on the CPU; as kernels.add_noise.

    Box and Muller's transform of two 24-bit uniforms, each a hash of the voxel's index and the seed. DALI's
    ``random.normal`` keeps a state of its own: batches would change with the batch size, and on resuming.
    """
    index = flat_index(shape, image.device)
    first = seed[0]
    second = first + word(SEED_STEP)
    mixed = integer_hash(index)
    u = (fn.cast(integer_hash(mixed ^ first) // word(256), dtype=types.DALIDataType.FLOAT) + 1.0) * 2.0**-24
    v = fn.cast(integer_hash(mixed ^ second) // word(256), dtype=types.DALIDataType.FLOAT) * 2.0**-24
    return image + std * dmath.sqrt(-2.0 * dmath.log(u)) * dmath.cos(2 * math.pi * v)


def flat_index(shape: Sequence[int], device: str) -> Node:
    """Each voxel's place in the flat array, uint32, as a sum of ramps: DALI stores constants as Python lists."""
    ramps = []
    for axis, side in enumerate(shape):
        ramp = np.arange(side, dtype=np.uint32) * np.uint32(math.prod(shape[axis + 1 :]))
        ramps.append(types.Constant(ramp.reshape([-1 if i == axis else 1 for i in range(len(shape))]), device=device))
    return functools.reduce(operator.add, ramps)


def integer_hash(x: Node) -> Node:
    """A 32-bit hash ("lowbias32", Wellons 2018, https://nullprogram.com/blog/2018/07/31/); // shifts right."""
    x = (x ^ (x // word(2**16))) * word(HASH_1)
    x = (x ^ (x // word(2**15))) * word(HASH_2)
    return x ^ (x // word(2**16))


def word(value: int) -> Any:
    """A uint32 constant; Python's integers would be promoted to int32."""
    return types.Constant(value, dtype=types.DALIDataType.UINT32)
