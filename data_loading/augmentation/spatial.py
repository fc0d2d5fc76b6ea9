"""Rotation, scaling and mirroring: how the patch's grid lies in the volume.

Each draws a matrix from voxels of the patch to those of the volume; their product, in the order of the effects, is
what the patch is read by, in one interpolation (``warp.py``). nnU-Net's draws: Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cases.settings import Settings, at_least, probability, setting
from data_loading.augmentation.effect import Grid, SpatialEffect, positive_range
from data_loading.errors import LoaderError


@dataclass(frozen=True, kw_only=True)
class RotationSettings(Settings):
    """Augmentation: rotation."""

    error = LoaderError

    rotation: float = setting(0.2, "probability that a patch is rotated", check=probability)
    rotation_deg: float | None = setting(
        None,
        "largest angle about each axis, in degrees; None: 30 in 3D; 180 where only the plane rotates, 15 in 2D where "
        "the patch is longer than 1.5 times its width",
        check=at_least(0),
    )


@dataclass(frozen=True, kw_only=True)
class ScalingSettings(Settings):
    """Augmentation: scaling."""

    error = LoaderError

    scaling: float = setting(0.2, "probability that a patch is scaled", check=probability)
    scaling_range: tuple[float, float] = setting(
        (0.7, 1.4), "factor on the sides of the region read; above 1 shows more, smaller", check=positive_range
    )


@dataclass(frozen=True, kw_only=True)
class MirrorSettings(Settings):
    """Augmentation: mirroring."""

    error = LoaderError

    mirror: float = setting(0.5, "probability that an axis is mirrored, for each of --mirror_axes", check=probability)


class Rotation(SpatialEffect[RotationSettings]):
    """Turns about the patch's centre: R_z R_y R_x, each angle uniform in [-limit, limit]; in-plane: R_z alone."""

    settings = RotationSettings
    chance = "rotation"

    def draw(self, rng: np.random.Generator, grid: Grid) -> np.ndarray | None:
        if rng.random() >= self.given.rotation:
            return None
        angles = np.deg2rad(rng.uniform(-1, 1, 3) * self.limit(grid))
        matrix = np.eye(3)
        for axis in (0,) if grid.in_plane else (0, 1, 2):
            matrix = matrix @ _turn(axis, angles[axis])
        return matrix

    def extremes(self, grid: Grid) -> np.ndarray:
        """Angles in steps of at most 3 degrees.

        What reaches as far in either sense is there once: beyond a right angle, and about the first two axes, turns
        repeat those of the other sense.
        """
        limit = min(self.limit(grid), 90.0)
        steps = math.ceil(limit / 3)
        positive = np.deg2rad(np.linspace(0, limit, steps + 1))
        both = np.deg2rad(np.linspace(-limit, limit, 2 * steps + 1))
        if grid.in_plane:
            return _turns(0, positive)
        first, second, third = _turns(0, positive), _turns(1, positive), _turns(2, both)
        return (first[:, None, None] @ second[:, None] @ third).reshape(-1, 3, 3)

    def limit(self, grid: Grid) -> float:
        """The largest angle in degrees, nnU-Net's rule where none is set."""
        if self.given.rotation_deg is not None:
            return self.given.rotation_deg
        if not grid.in_plane:
            return 30.0
        plane = grid.patch_dhw[1:]
        return 15.0 if grid.patch_dhw[0] == 1 and max(plane) > 1.5 * min(plane) else 180.0


def _turn(axis: int, angle: float) -> np.ndarray:
    """The (3, 3) rotation about an axis by an angle in radians."""
    a, b = [i for i in range(3) if i != axis]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = math.cos(angle)
    turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
    return turn


def _turns(axis: int, angles: np.ndarray) -> np.ndarray:
    return np.stack([_turn(axis, angle) for angle in angles])


class Scaling(SpatialEffect[ScalingSettings]):
    """Stretches all axes, or the plane's, by one factor."""

    settings = ScalingSettings
    chance = "scaling"

    def draw(self, rng: np.random.Generator, grid: Grid) -> np.ndarray | None:
        if rng.random() >= self.given.scaling:
            return None
        scale = rng.uniform(*self.given.scaling_range)
        return self._stretch(scale, grid)

    def extremes(self, grid: Grid) -> np.ndarray:
        """The largest factor, which may be below 1, where not every patch is scaled."""
        return self._stretch(max(self.given.scaling_range[1], 1.0), grid)[None]

    @staticmethod
    def _stretch(scale: float, grid: Grid) -> np.ndarray:
        return np.diag((1.0 if grid.in_plane else scale, scale, scale))


class Mirror(SpatialEffect[MirrorSettings]):
    """Mirrors each of the grid's axes, or not.

    It stands last and is done with the reading, which costs nothing: the intensity effects between commute with it.
    """

    settings = MirrorSettings
    warps = False

    def draw(self, rng: np.random.Generator, grid: Grid) -> np.ndarray | None:
        signs = np.ones(3)
        for axis in grid.mirror_axes:
            if rng.random() < self.given.mirror:
                signs[axis] = -1
        return np.diag(signs)
