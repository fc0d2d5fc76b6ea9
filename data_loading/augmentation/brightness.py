"""Brightness: out = image * factor, a factor for each channel.

As nnU-Net's, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cases.settings import Settings, probability, setting
from data_loading.augmentation.effect import IntensityEffect, Node, around_one, positive_range
from data_loading.augmentation.graph import column
from data_loading.errors import LoaderError


@dataclass(frozen=True, kw_only=True)
class BrightnessSettings(Settings):
    """Augmentation: brightness."""

    error = LoaderError

    brightness: float = setting(0.15, "probability that a patch's brightness changes", check=probability)
    brightness_range: tuple[float, float] = setting(
        (0.75, 1.25), "factor on the intensities, for each channel", check=positive_range
    )


class Brightness(IntensityEffect[BrightnessSettings]):
    """Parameters: the factor of each channel."""

    settings = BrightnessSettings
    chance = "brightness"

    def draw(self, rng: np.random.Generator, channels: int, axes: int) -> np.ndarray | None:
        if rng.random() >= self.given.brightness:
            return None
        return around_one(rng, self.given.brightness_range, channels)

    def apply_cpu(self, image_cdhw: np.ndarray, parameters: np.ndarray, in_plane: bool) -> None:
        for channel, factor in zip(image_cdhw, parameters, strict=True):
            channel *= factor

    def apply_dali(self, image: Node, parameters: Node, shape: Sequence[int], in_plane: bool) -> Node:
        return image * column(parameters, image, shape)
