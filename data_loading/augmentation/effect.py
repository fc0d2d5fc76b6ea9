"""What an effect of the augmentation brings: settings, a draw, and what it does with the numbers drawn.

There are two kinds. A spatial effect says how the patch's grid lies in the volume; the source reads by it. An
intensity effect changes grey values, in place on the CPU or as part of DALI's graph; both forms compute the same.
Effects are small and picklable: the reading processes get a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from cases.settings import Settings

Node = Any  # DALI's DataNode
S = TypeVar("S", bound=Settings)
IDENTITY = np.eye(3)[None]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The voxels of a patch.

    Attributes:
        patch_dhw: sides in voxels; D is 1 for a 2D plan.
        in_plane: only H and W may be rotated and scaled.
        mirror_axes: of (D, H, W), those that may be mirrored.
    """

    patch_dhw: tuple[int, int, int]
    in_plane: bool = False
    mirror_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Effect(Generic[S]):
    """What both kinds have.

    Attributes:
        given: its settings.
        settings: their class, whose fields are flags.
        chance: the name of the setting that is the effect's probability; "" for one that may always be on.
    """

    given: S
    settings: ClassVar[type[Settings]]
    chance: ClassVar[str] = ""

    @property
    def possible(self) -> bool:
        """Whether it can ever be on."""
        return not self.chance or getattr(self.given, self.chance) > 0


@dataclass(frozen=True)
class SpatialEffect(_Effect[S], ABC):
    """Changes where the voxels of a patch are read.

    Attributes:
        warps: whether voxels are read from between those of the volume, so that interpolation is needed.
    """

    warps: ClassVar[bool] = True

    @abstractmethod
    def draw(self, rng: np.random.Generator, grid: Grid) -> np.ndarray | None:
        """The (3, 3) matrix from voxels of the patch to those of the volume, about the patch's centre; None: off."""

    def extremes(self, grid: Grid) -> np.ndarray:
        """Matrices (n, 3, 3), one of which reaches as far as any that is drawn, to within 1 %; signs do not count."""
        return IDENTITY


@dataclass(frozen=True)
class IntensityEffect(_Effect[S], ABC):
    """Changes grey values, by a fixed number of float32 values that ``draw`` gives."""

    def width(self, channels: int, axes: int) -> int:
        """How many numbers ``draw`` gives for a patch of so many channels and spatial axes: one for each channel."""
        return channels

    @abstractmethod
    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        """The parameters of one patch, (width,); None: off. They become float32: above 2**24 digits are lost."""

    @abstractmethod
    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        """Change an image in place; not called where it is off.

        Args:
            image_cdhw: C-contiguous float32; D is 1 for a 2D patch.
            parameters: of ``draw``.
            in_plane: the first spatial axis is to be left alone, for slices far apart or a 2D patch.
        """

    @abstractmethod
    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        """The same in DALI's graph, keeping shape and layout; runs for those patches alone that have it on.

        Args:
            image: (C, *axes) float32, layout "CDHW" or "CHW", on the device.
            parameters: of ``draw``, (width,) on the CPU. A plain ``if`` on them works by patch.
            shape: (C, *axes).
            in_plane: of three spatial axes the first is to be left alone.
        """

    def neighbour(self, parameters: np.ndarray, index: int) -> np.ndarray:
        """Parameters of the ``index``-th of neighbouring slices that share a draw; only noise differs."""
        return parameters


def positive_range(value: tuple[float, float]) -> str:
    """A check of settings: two numbers above 0, the second no less than the first."""
    return "" if 0 < value[0] <= value[1] else "is not a range of positive numbers"


def around_one(rng: np.random.Generator, limits: tuple[float, float], channels: int) -> np.ndarray:
    """A factor for each channel, below one as often as above where the range holds both."""
    low, high = limits
    below = (rng.random(channels) < 0.5) & (low < 1) if high > 1 else np.full(channels, True)
    lower = rng.uniform(low, min(high, 1.0) if low < 1 else high, channels)
    upper = rng.uniform(max(low, 1.0) if high > 1 else low, high, channels)
    return np.where(below, lower, upper)
