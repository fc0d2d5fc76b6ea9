"""Losses of segmentation, by name: one class in one file each."""

from __future__ import annotations

from dataclasses import dataclass

from cases.regions import Regions
from cases.registry import Registry, RegistryError
from cases.settings import Given, Settings, setting
from training.losses.base import Loss

LOSSES: Registry[type[Loss]] = Registry(
    "loss",
    {
        "default": "training.losses.dice_ce:DiceCrossEntropy",
        "dice": "training.losses.dice_ce:Dice",
        "ce": "training.losses.dice_ce:CrossEntropy",
    },
    needs=("of",),
)


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """What training minimises"""

    loss: str = setting(
        "default",
        "default: Dice and cross entropy; dice: soft Dice alone (smoothed by 1); ce: cross entropy alone",
        variants=LOSSES,
    )


def build_loss(given: Given, regions: Regions | None = None) -> Loss:
    """The loss that ``--loss`` names, made of the groups of settings that it reads.

    Args:
        given: with LossSettings and the loss's own groups.
        regions: overlapping regions instead of exclusive classes.

    Raises:
        RegistryError: for an own loss that is none.
    """
    name = given[LossSettings].loss
    kind = LOSSES.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Loss)):
        raise RegistryError(f"{name} is no loss: derive it from training.losses.base.Loss; see docs/extending.md")
    return kind(*(given[group] for group in LOSSES.settings_of(name)), regions=regions)
