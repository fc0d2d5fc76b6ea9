"""Segmentation losses: Dice plus cross entropy or focal loss, over all heads of deep supervision."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor, nn
from torch.nn import functional as F

from data_preprocessing.regions import Regions


class SegmentationLoss(nn.Module):
    """Soft Dice (doi:10.1109/3DV.2016.79) plus cross entropy, or focal loss (doi:10.1109/ICCV.2017.324).

    Dice is taken over the batch, without the background. The heads of deep supervision are averaged
    with weights 1, 1/2, 1/4, ..., each against the label at its own resolution.

    Args:
        focal: focal loss with gamma 2 in the place of cross entropy.
        regions: overlapping regions, each a sigmoid channel, instead of exclusive classes.
        dice_only: Dice alone, smoothed by 1, as Models Genesis is fine-tuned (doi:10.1016/j.media.2020.101840).
    """

    def __init__(self, *, focal: bool = False, regions: Regions | None = None, dice_only: bool = False) -> None:
        super().__init__()
        self.dice_only = dice_only
        smooth = 1.0 if dice_only else 1e-5
        self.focal = FocalLoss(gamma=2.0, to_onehot_y=regions is None, use_softmax=regions is None) if focal else None
        self.regions = regions
        if regions is None:
            self.dice = DiceLoss(
                include_background=False, softmax=True, to_onehot_y=True, batch=True, smooth_nr=smooth, smooth_dr=smooth
            )
        else:
            self.dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=smooth, smooth_dr=smooth)

    def forward(self, heads: tuple[Tensor, ...], label: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            heads: logits (N, C, *spatial), full resolution first.
            label: (N, 1, *spatial) of class values, at full resolution.
        """
        weights = [0.5**i for i in range(len(heads))]
        losses = [w * self._head_loss(logits.float(), label) for w, logits in zip(weights, heads, strict=True)]
        return torch.stack(losses).sum() / sum(weights)

    def _head_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if label.shape[2:] != logits.shape[2:]:
            label = F.interpolate(label, size=logits.shape[2:], mode="nearest-exact")
        if self.dice_only:
            return self.dice(logits, label if self.regions is None else self.regions.channels(label).float())
        if self.regions is not None:
            target = self.regions.channels(label).float()
            voxel = F.binary_cross_entropy_with_logits(logits, target) if self.focal is None else None
        else:
            target = label
            voxel = F.cross_entropy(logits, label[:, 0].long()) if self.focal is None else None
        if self.focal is not None:
            voxel = self.focal(logits, target)
        return self.dice(logits, target) + voxel
