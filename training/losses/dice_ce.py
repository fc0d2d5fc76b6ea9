"""Soft Dice and cross entropy: together, as nnU-Net is trained, and each alone.

Dice is taken over all patches of a batch together, without the background.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cases.regions import Regions
from cases.settings import Settings, setting
from training.losses.base import SummedLoss, Sums, Voxels

GAMMA = 2  # of the focal loss: a factor (1 - p)^gamma on the cross entropy of what is true


@dataclass(frozen=True, kw_only=True)
class VoxelTermSettings(Settings):
    """The loss's term of single voxels"""

    focal: bool = setting(False, "focal loss instead of cross entropy")


class Dice(SummedLoss):
    """Soft Dice (doi:10.1109/3DV.2016.79), smoothed by 1 as Models Genesis is fine-tuned.

    doi:10.1016/j.media.2020.101840. The mean over classes or regions of
    1 - (2 |A and B| + s) / (|A| + |B| + s).
    """

    def __init__(self, *, smooth: float = 1.0, regions: Regions | None = None) -> None:
        super().__init__(regions=regions)
        self.smooth = smooth

    def sums(self, voxels: Voxels) -> Sums:
        return voxels.overlap()

    def finish(self, sums: Sums) -> Tensor:
        both, size = sums["both"], sums["predicted"] + sums["true"]
        return 1 - ((2 * both + self.smooth) / (size + self.smooth)).mean()


class CrossEntropy(SummedLoss):
    """Mean cross entropy, as MedicalNet is fine-tuned (arXiv:1904.00625), or focal loss (doi:10.1109/ICCV.2017.324).

    Of regions it is the binary one, a mean over regions too. The focal loss is one over classes too, most of whose
    terms are 0.
    """

    settings = VoxelTermSettings

    def __init__(self, settings: VoxelTermSettings | None = None, *, regions: Regions | None = None) -> None:
        super().__init__(regions=regions)
        self.focal = (settings or VoxelTermSettings()).focal

    def sums(self, voxels: Voxels) -> Sums:
        if self.focal:
            log_true = voxels.log_true
            total, count = -(log_true * (1 - log_true.exp()) ** GAMMA).sum(), voxels.label.numel() * voxels.channels
        else:
            total, count = -voxels.log_likelihood(), voxels.decisions
        return {"voxelwise": total, "count": total.new_full((), count)}

    def finish(self, sums: Sums) -> Tensor:
        return sums["voxelwise"] / sums["count"]


class DiceCrossEntropy(SummedLoss):
    """The sum of both, Dice smoothed by 1e-5 (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)."""

    settings = VoxelTermSettings

    def __init__(self, settings: VoxelTermSettings | None = None, *, regions: Regions | None = None) -> None:
        super().__init__(regions=regions)
        self.dice = Dice(smooth=1e-5, regions=regions)
        self.voxelwise = CrossEntropy(settings, regions=regions)

    def sums(self, voxels: Voxels) -> Sums:
        return {**self.voxelwise.sums(voxels), **self.dice.sums(voxels)}  # the logarithm first: Dice then reuses it

    def finish(self, sums: Sums) -> Tensor:
        return self.dice.finish(sums) + self.voxelwise.finish(sums)
