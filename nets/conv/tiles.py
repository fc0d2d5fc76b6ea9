"""How the kernels of triton_kernels.py cut a tensor into the chunks of their programs; whole numbers alone."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from nets.norm.fused import Cut

CHANNELS = 32  # of the output, and of a block of the input
FEW = 4  # channels of an image at most; more come in blocks
TAPS = 27
TILE = 128  # voxels of a step: two instructions of Hopper's tensor cores
STEPS = 4  # of an image's chunk at least
IMAGE_PROGRAMS = 2048  # wanted for an image, whose limit is memory
MULTIPROCESSORS = 132  # of an H200; where there is no device to ask
PER_MULTIPROCESSOR = 2  # programs that run at once, by their registers


class Shape(NamedTuple):
    """Sides of (N, C, planes, height, width)."""

    samples: int
    channels: int
    planes: int
    height: int
    width: int

    @property
    def positions(self) -> int:
        return self.height * self.width

    @property
    def voxels(self) -> int:
        return self.planes * self.positions


def cut_of(shape: Shape, device: torch.device) -> Cut:
    """The chunks of the output that belong to an input of this shape."""
    if shape.channels <= FEW:
        wanted = max(1, min(IMAGE_PROGRAMS // shape.samples, shape.voxels // (STEPS * TILE)))
        return Cut(shape.voxels, TILE * _ceil(shape.voxels, TILE * wanted), 1, 1)
    tiles = shape.samples * _ceil(shape.positions, TILE)
    return Cut(shape.positions, TILE, shape.planes, best_depth(shape.planes, tiles, slots(device)))


@lru_cache(maxsize=64)
def best_depth(planes: int, tiles: int, slots: int) -> int:
    """Planes of a chunk, so that all is done soonest: in rounds of ``slots`` programs, which read two planes more."""
    depths = sorted({_ceil(planes, chunks) for chunks in range(1, planes + 1)}, reverse=True)
    return min(depths, key=lambda depth: _ceil(tiles * _ceil(planes, depth), slots) * (depth + 2))


def weight_chunk(shape: Shape, step: int, device: torch.device) -> int:
    """Voxels of a program of the weights' gradient; all programs run at once, three for every block of channels."""
    programs = max(1, slots(device) // (3 * _ceil(shape.channels, CHANNELS)))
    return step * max(STEPS, _ceil(shape.samples * shape.voxels, step * programs))


def slots(device: torch.device) -> int:
    """Programs that run at once on a device."""
    here = device.type == "cuda" and torch.cuda.is_available()
    count = torch.cuda.get_device_properties(device).multi_processor_count if here else MULTIPROCESSORS
    return PER_MULTIPROCESSOR * count


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
