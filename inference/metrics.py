"""Overlap of a predicted and a true label map, by class or by region, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cases.regions import Regions


@dataclass(frozen=True)
class Overlap:
    """Voxel counts, int64, one of each for every class without the background, or every region."""

    intersection: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def dice(self) -> Tensor:
        """2 |A and B| / (|A| + |B|), float64; nan where a class is in neither map, 0 where in one alone."""
        return 2 * self.intersection.double() / (self.predicted + self.true)

    @property
    def iou(self) -> Tensor:
        """|A and B| / |A or B|, float64; nan and 0 as for Dice."""
        return self.intersection.double() / (self.predicted + self.true - self.intersection)


def overlap(prediction: Tensor, label: Tensor, n_class: int, regions: Regions | None = None) -> Overlap:
    """Count the voxels of every class (or region) that two label maps share.

    Args:
        prediction, label: class values below ``n_class``, any one shape.
        n_class: classes with the background.
        regions: unions of classes in the place of classes.

    Raises:
        ValueError: for two shapes, or values that are no class.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
    pairs = label.flatten().long() * n_class + prediction.flatten().long()
    highest = max(int(prediction.max()), int(label.max()))
    if highest >= n_class:
        raise ValueError(f"class value {highest} is not among the {n_class} classes 0 to {n_class - 1}")
    confusion = torch.bincount(pairs, minlength=n_class * n_class).reshape(n_class, n_class)
    groups = regions.members if regions is not None else [(value,) for value in range(1, n_class)]
    member = torch.zeros(len(groups), n_class, dtype=torch.int64, device=confusion.device)
    for row, group in zip(member, groups, strict=True):
        row[list(group)] = 1
    both = torch.stack([(confusion * row[:, None] * row).sum() for row in member])
    return Overlap(both, (confusion.sum(0) * member).sum(1), (confusion.sum(1) * member).sum(1))


class DiceMeter:
    """Mean Dice over cases.

    A class that is absent from both maps of a case says nothing and is left out of that case; one
    that is absent from a single map counts as 0.

    Attributes:
        totals: float64, (2, 1 + classes): sums of Dice and numbers of terms; first the case's mean
            over its classes, then each class. Sums of several processes simply add up.
    """

    def __init__(self, n_class: int, regions: Regions | None = None, device: torch.device | str = "cpu") -> None:
        self.n_class, self.regions = n_class, regions
        columns = 1 + (len(regions.names) if regions is not None else n_class - 1)
        self.totals = torch.zeros(2, columns, dtype=torch.float64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> Tensor:
        """Count one case of label maps of one shape; returns its Dice by class, nan where absent."""
        dice = overlap(prediction, label, self.n_class, self.regions).dice.to(self.totals.device)
        row = torch.cat([dice.nanmean()[None], dice])
        self.totals += torch.stack([row.nan_to_num(0.0), (~row.isnan()).double()])
        return dice

    def reset(self) -> None:
        self.totals.zero_()

    @staticmethod
    def describe(totals: Tensor, names: Sequence[str]) -> str:
        """In percent: ``Dice 79.43 over 41 cases (Anterior 80.48, Posterior 78.37)``."""
        mean, by_class = DiceMeter.means(totals)
        shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in zip(names, by_class, strict=True))
        return f"Dice {100 * mean:.2f} over {int(totals[1, 0])} cases ({shown})"

    @staticmethod
    def record(totals: Tensor) -> dict[str, float]:
        """DLLogger's names and values, in percent: Dice, then D1, D2, ... by class."""
        mean, by_class = DiceMeter.means(totals)
        return {"Dice": 100 * mean} | {f"D{index}": 100 * value for index, value in enumerate(by_class, start=1)}

    @staticmethod
    def means(totals: Tensor) -> tuple[float, list[float]]:
        """Mean over cases of the cases' means, and each class' mean over cases: 0 to 1, nan without a case."""
        mean, *by_class = (totals[0] / totals[1]).tolist()
        return mean, by_class
