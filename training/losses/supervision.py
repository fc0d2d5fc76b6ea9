"""Deep supervision: any loss over heads of several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cases.grid import nearest_places
from training.losses.base import Loss


class DeepSupervision(nn.Module):
    """The mean of a loss over all heads with weights 1, 1/2, 1/4, ..., each against the label at its own resolution.

    Args:
        loss: of one head.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, heads: Sequence[Tensor], label: Tensor) -> Tensor:
        """Scalar, float32.

        Args:
            heads: logits (N, C, *space), highest resolution first.
            label: class values (N, 1, *space) at full resolution. Where no head is (MedicalNet's own network answers
                at a quarter), it is resized as MedicalNet's training does it.
        """
        label = resize_label(label, heads[0].shape[2:])
        weights = [0.5**i for i in range(len(heads))]
        losses = [w * self.loss(logits, label_for(label, logits)) for w, logits in zip(weights, heads, strict=True)]
        return torch.stack(losses).sum() / sum(weights)


def label_for(label: Tensor, logits: Tensor) -> Tensor:
    """The label at a lower head's resolution, by the voxel nearest to each centre."""
    shape = logits.shape[2:]
    return label if label.shape[2:] == shape else F.interpolate(label, size=shape, mode="nearest-exact")


def resize_label(label: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, 1, *space) to another size by nearest voxel, the corners' centres staying where they are."""
    for axis, new in enumerate(shape, start=2):
        old = label.shape[axis]
        if new != old:
            label = label.index_select(axis, places_on(old, new, label.device))
    return label


@lru_cache(maxsize=32)
def places_on(old: int, new: int, device: torch.device) -> Tensor:
    """Where the labels of an axis come from, moved to the device once: a copy in each step would wait for it."""
    return torch.from_numpy(nearest_places(old, new, corners=True)).to(device)
