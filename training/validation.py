"""The loss of a whole volume, summed from the slabs in which its probabilities arrive."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.regions import Regions
from training.losses import Terms

SMOOTH = 1e-5  # as in the training loss


class VolumeLoss:
    """Soft Dice plus mean cross entropy, or focal loss, of one volume: what SegmentationLoss gives for all of it.

    Args:
        focal: focal loss with gamma 2 in the place of cross entropy.
        regions: overlapping regions instead of exclusive classes.
        terms: as in SegmentationLoss.
    """

    def __init__(self, *, focal: bool = False, regions: Regions | None = None, terms: Terms = "default") -> None:
        self.focal, self.regions, self.terms = focal, regions, terms
        self._voxelwise = torch.zeros((), dtype=torch.float64)
        self._count = 0
        self._overlap: Tensor | None = None  # (3, channels): intersection, predicted, true

    def add(self, probabilities_cdhw: Tensor, label_dhw: Tensor) -> None:
        """Count one slab.

        Args:
            probabilities_cdhw: float32, (C, ...) of classes or regions.
            label_dhw: class values (...).
        """
        p = probabilities_cdhw.clamp(1e-7, 1 - 1e-7)
        if self.regions is None:
            target = torch.zeros_like(p).scatter_(0, label_dhw[None].long(), 1.0)
            true_p = p.gather(0, label_dhw[None].long())
        else:
            target = self.regions.channels(label_dhw[None, None])[0].to(p)
            true_p = torch.where(target > 0, p, 1 - p)
        loss = -true_p.log()
        if self.focal:
            loss = loss * (1 - true_p) ** 2
        self._voxelwise = self._voxelwise.to(p.device) + loss.sum(dtype=torch.float64)
        # Focal loss is a mean over classes too, most of whose terms are 0; cross entropy one over voxels.
        self._count += p.numel() if self.focal else true_p.numel()
        axes = tuple(range(1, p.ndim))
        sums = torch.stack([(p * target).sum(axes), p.sum(axes), target.sum(axes)]).double()
        self._overlap = sums if self._overlap is None else self._overlap + sums

    def total(self) -> Tensor:
        """Scalar, float64."""
        assert self._overlap is not None  # a volume has at least one slab
        both, predicted, true = self._overlap if self.regions is not None else self._overlap[:, 1:]
        smooth = 1.0 if self.terms == "dice" else SMOOTH
        dice = 1 - ((2 * both + smooth) / (predicted + true + smooth)).mean()
        voxelwise = self._voxelwise / self._count
        return {"default": dice + voxelwise, "dice": dice, "ce": voxelwise}[self.terms]
