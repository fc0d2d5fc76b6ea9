"""Augmentation: the effects in their order, and what is drawn and done in that order.

The order of :data:`EFFECTS` is the order, and nothing else says it. A new effect is one file and one line here; from
outside the tree ``--own_effects file.py:Class`` runs one after these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from cases.plan import Plan
from cases.registry import Registry
from cases.settings import Given, Settings, at_least, probability, setting
from data_loading.augmentation.blur import Blur
from data_loading.augmentation.brightness import Brightness
from data_loading.augmentation.contrast import Contrast
from data_loading.augmentation.effect import IDENTITY, Grid, IntensityEffect, Node, SpatialEffect
from data_loading.augmentation.gamma import Gamma, GammaInverted
from data_loading.augmentation.low_resolution import LowResolution
from data_loading.augmentation.noise import Noise
from data_loading.augmentation.spatial import Mirror, Rotation, Scaling
from data_loading.errors import LoaderError

Effect = SpatialEffect[Any] | IntensityEffect[Any]

# nnU-Net's effects, in its order: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
EFFECTS: Registry[type[Effect]] = Registry(
    "augmentation effect",
    {
        "rotation": Rotation,
        "scaling": Scaling,
        "noise": Noise,
        "blur": Blur,
        "brightness": Brightness,
        "contrast": Contrast,
        "low_resolution": LowResolution,
        "gamma_inverted": GammaInverted,
        "gamma": Gamma,
        "mirror": Mirror,
    },
    needs=("settings", "width", "draw", "apply_cpu", "apply_dali"),
)


@dataclass(frozen=True)
class EffectSet:
    """Built-in effects that are used together."""

    names: tuple[str, ...]

    @property
    def settings(self) -> tuple[type[Settings], ...]:
        """The groups that they read."""
        return tuple(dict.fromkeys(kind for name in self.names for kind in EFFECTS.settings_of(name)))


AUGMENTATIONS: Registry[EffectSet] = Registry(
    "set of effects", {"nnunet": EffectSet(tuple(EFFECTS)), "none": EffectSet(("mirror",))}, needs=("names", "settings")
)


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings(Settings):
    """Augmentation."""

    error = LoaderError

    augment: str = setting(
        "nnunet", "effects besides cropping and mirroring: nnU-Net's, or none of them", variants=AUGMENTATIONS
    )
    mirror_axes: tuple[int, ...] | None = setting(
        None,
        "spatial axes that training mirrors, 0 the first of the patch; no number: none; None: as the plan says",
        check=at_least(0),
    )
    own_effects: tuple[str, ...] = setting(
        (), "your own intensity effects, as file.py:Class, which run after all others", variants=EFFECTS
    )

    def faults(self) -> list[str]:
        return [f"--own_effects {name} is built in already" for name in self.own_effects if name in EFFECTS]

    def mirrored(self, plan: Plan) -> Plan:
        """The plan with the axes that training mirrors. Raises LoaderError for axes that its patch has not."""
        if self.mirror_axes is None:
            return plan
        if not set(self.mirror_axes) <= set(range(plan.dim)):
            axes = " ".join(map(str, self.mirror_axes))
            raise LoaderError(f"--mirror_axes {axes}: a {plan.dim}D network has axes 0..{plan.dim - 1}")
        return plan.with_(mirror_axes=self.mirror_axes)


DEFAULTS = Given((AugmentationSettings(), *(kind() for kind in AUGMENTATIONS.get("nnunet").settings)))


@dataclass(frozen=True)
class Augmentation:
    """The effects in use with their settings, in their order. Picklable and small: each reading process gets a copy.

    What the intensity effects draw is packed into one float32 vector, effect after effect, each behind a number that is
    1 where the effect is on; where it is off, that number and the parameters are 0.
    """

    effects: tuple[Effect, ...] = ()

    @classmethod
    def of(cls, given: Given) -> Augmentation:
        """The effects that a command was given. Raises RegistryError for an own one that cannot be used."""
        chosen = given[AugmentationSettings]
        names = (*AUGMENTATIONS.get(chosen.augment).names, *chosen.own_effects)
        return cls(tuple(_make(name, given) for name in names))

    @classmethod
    def nnunet(cls) -> Augmentation:
        """Every effect with its defaults, which are nnU-Net's."""
        return cls.of(DEFAULTS)

    @classmethod
    def only(cls, *names: str) -> Augmentation:
        """These effects alone, each always and on every channel; for tests, benchmarks and pictures."""
        given = Given(tuple(_certain(group) for group in DEFAULTS))
        return cls(tuple(_make(name, given) for name in EFFECTS if name in names))

    @cached_property
    def spatial(self) -> tuple[SpatialEffect[Any], ...]:
        return tuple(effect for effect in self.effects if isinstance(effect, SpatialEffect))

    @cached_property
    def intensity(self) -> tuple[IntensityEffect[Any], ...]:
        return tuple(effect for effect in self.effects if not isinstance(effect, SpatialEffect))

    @property
    def warps(self) -> bool:
        """Whether any patch is read from between the voxels of its volume."""
        return any(effect.warps and effect.possible for effect in self.spatial)

    def extremes(self, grid: Grid) -> np.ndarray:
        """Matrices (n, 3, 3), one of which reaches as far as any of :meth:`draw_matrix`; see SpatialEffect."""
        matrices = IDENTITY
        for effect in self.spatial:
            if effect.possible:
                matrices = (matrices[:, None] @ effect.extremes(grid)).reshape(-1, 3, 3)
        return matrices

    def draw_matrix(self, rng: np.random.Generator, grid: Grid) -> tuple[np.ndarray, bool]:
        """The (3, 3) matrix from voxels of the patch to those of the volume, and whether it needs interpolation."""
        matrix, warped = np.eye(3), False
        for effect in self.spatial:
            drawn = effect.draw(rng, grid)
            if drawn is not None:
                matrix, warped = matrix @ drawn, warped or effect.warps
        return matrix, warped

    def draw_intensity(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray:
        """The packed vector of one patch; see the class. Raises LoaderError for an own effect of another width."""
        packed = np.zeros(self.width(channels, axes), np.float32)
        for effect, first, end in self.places(channels, axes):
            drawn = effect.draw(rng, channels, axes)
            if drawn is None:
                continue
            if np.shape(drawn) != (end - first,):
                raise LoaderError(
                    f"{type(effect).__name__} draws {np.shape(drawn)} numbers, its width is {end - first}"
                )
            packed[first - 1], packed[first:end] = 1, drawn
        return packed

    def places(self, channels: int, axes: int) -> list[tuple[IntensityEffect[Any], int, int]]:
        """Each intensity effect with the (first, end) of its parameters in the packed vector."""
        found, first = [], 1
        for effect in self.intensity:
            end = first + effect.width(channels, axes)
            found.append((effect, first, end))
            first = end + 1
        return found

    def width(self, channels: int, axes: int) -> int:
        """How long the packed vector is."""
        return sum(1 + effect.width(channels, axes) for effect in self.intensity)

    def neighbour(self, packed: np.ndarray, channels: int, axes: int, index: int) -> np.ndarray:
        """The packed vector of the ``index``-th of neighbouring slices that share a draw."""
        other = packed.copy()
        for effect, first, end in self.places(channels, axes):
            if packed[first - 1]:
                other[first:end] = effect.neighbour(packed[first:end], index)
        return other

    def apply_cpu(self, image_cdhw: np.ndarray, packed: np.ndarray, axes: int, in_plane: bool) -> None:
        """All intensity effects, compiled and in place.

        Args:
            image_cdhw: C-contiguous float32; D is 1 for a 2D patch.
            packed: of :meth:`draw_intensity` for as many channels.
            axes: as there.
            in_plane: leave the first spatial axis alone.
        """
        for effect, first, end in self.places(len(image_cdhw), axes):
            if packed[first - 1]:
                effect.apply_cpu(image_cdhw, packed[first:end], in_plane)

    def apply_dali(self, image: Node, packed: Node, shape: Sequence[int], in_plane: bool) -> Node:
        """The same in DALI's graph under ``enable_conditionals``: what is off costs a patch nothing.

        An effect that can never be on has no operators. The others' are run on the patches that have them on.

        Args:
            image: (C, *axes) on the device.
            packed: of :meth:`draw_intensity`, on the CPU.
            shape: the image's.
            in_plane: of three spatial axes leave the first alone.
        """
        for effect, first, end in self.places(shape[0], len(shape) - 1):
            if not effect.possible:
                continue
            if packed[first - 1] > 0:
                image = effect.apply_dali(image, packed[first:end], shape, in_plane)
        return image


def _make(name: str, given: Given) -> Effect:
    return EFFECTS.get(name)(*(given[kind] for kind in EFFECTS.settings_of(name)))


def _certain(group: Settings) -> Settings:
    """With every probability at 1."""
    shares = {entry.name: 1.0 for entry in fields(group) if entry.metadata.get("check") is probability}
    return replace(group, **shares)
