"""Segmentation losses: Dice plus cross entropy or focal loss, over all heads of deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor, nn
from torch.nn import functional as F

from cases.regions import Regions

Terms = Literal["default", "dice", "ce"]


class SegmentationLoss(nn.Module):
    """Soft Dice (doi:10.1109/3DV.2016.79) plus cross entropy, or focal loss (doi:10.1109/ICCV.2017.324).

    Dice is taken over the batch, without the background. The heads of deep supervision are averaged
    with weights 1, 1/2, 1/4, ..., each against the label at its own resolution.

    Args:
        focal: focal loss with gamma 2 in the place of cross entropy.
        regions: overlapping regions, each a sigmoid channel, instead of exclusive classes.
        terms: "default" is both; "dice" alone, smoothed by 1, as Models Genesis is fine-tuned
            (doi:10.1016/j.media.2020.101840); "ce" is cross entropy (or focal loss) alone, as MedicalNet is
            fine-tuned (arXiv:1904.00625).
    """

    def __init__(self, *, focal: bool = False, regions: Regions | None = None, terms: Terms = "default") -> None:
        super().__init__()
        self.terms = terms
        smooth = 1.0 if terms == "dice" else 1e-5
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
            heads: logits (N, C, *spatial), highest resolution first.
            label: (N, 1, *spatial) of class values, at full resolution. Where no head is (MedicalNet's own network
                answers at a quarter), it is resized as MedicalNet's training does it.
        """
        label = resize_label(label, heads[0].shape[2:])
        weights = [0.5**i for i in range(len(heads))]
        losses = [w * self._head_loss(logits.float(), label) for w, logits in zip(weights, heads, strict=True)]
        return torch.stack(losses).sum() / sum(weights)

    def _head_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        if label.shape[2:] != logits.shape[2:]:
            label = F.interpolate(label, size=logits.shape[2:], mode="nearest-exact")
        if self.terms == "dice":
            return self.dice(logits, label if self.regions is None else self.regions.channels(label).float())
        if self.regions is not None:
            target = self.regions.channels(label).float()
            voxel = F.binary_cross_entropy_with_logits(logits, target) if self.focal is None else None
        else:
            target = label
            voxel = F.cross_entropy(logits, label[:, 0].long()) if self.focal is None else None
        if self.focal is not None:
            voxel = self.focal(logits, target)
        assert voxel is not None  # one of the three
        return voxel if self.terms == "ce" else self.dice(logits, target) + voxel


def resize_label(label: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, 1, *spatial) to another size by nearest voxel, the corners' centres staying where they are."""
    for axis, new in enumerate(shape, start=2):
        old = label.shape[axis]
        if new != old:
            places = torch.arange(new, dtype=torch.float64, device=label.device) * ((old - 1) / max(new - 1, 1))
            label = label.index_select(axis, (places + 0.5).long())
    return label
