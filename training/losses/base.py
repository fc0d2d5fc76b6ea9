"""What a loss is: one formula, of patches while a network learns and of whole volumes while it is evaluated.

Shapes: N patches, C classes (or regions), then space. A volume is one patch, N = 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cases.regions import Regions
from cases.settings import Settings

Sums = Mapping[str, Tensor]
LEAST = 1e-7  # probability in a volume, so that its logarithm is finite


class Voxels(ABC):
    """What a network says of some voxels, and what is true there; computed when it is first asked for.

    Args:
        label: class values, (N, 1, *space), of any integer type.
        channels: C.
        regions: overlapping regions, each a channel by itself, instead of exclusive classes.
    """

    def __init__(self, label: Tensor, channels: int, regions: Regions | None) -> None:
        self.label, self.channels, self.regions = label, channels, regions

    @property
    def decisions(self) -> int:
        """How many terms :attr:`log_true` has."""
        return self.label.numel() * (1 if self.regions is None else self.channels)

    @property
    @abstractmethod
    def probabilities(self) -> Tensor:
        """Of every class or region, (N, C, *space) float32."""

    @property
    @abstractmethod
    def log_true(self) -> Tensor:
        """Logarithm of the probability of what is true.

        (N, *space) of the true class; of regions (N, C, *space), of being inside or outside as it is true.
        """

    def log_likelihood(self) -> Tensor:
        """Sum of ``log_true``."""
        return self.log_true.sum(dtype=torch.float64)

    @cached_property
    def target(self) -> Tensor:
        """1 where a voxel is of the class or in the region, else 0: (N, C, *space) float32."""
        if self.regions is not None:
            return self.regions.channels(self.label).float()
        classes = torch.arange(self.channels, dtype=self.label.dtype, device=self.label.device)
        return (self.label == classes.reshape(1, -1, *[1] * (self.label.ndim - 2))).float()

    def overlap(self) -> dict[str, Tensor]:
        """Sums by channel, (C,): ``both`` predicted and true, ``predicted``, ``true``; classes but the background."""
        predicted, true = self.probabilities, self.target
        if self.regions is None:
            predicted, true = predicted[:, 1:], true[:, 1:]
        both, predicted = _Overlap.apply(predicted, true)
        return {"both": both, "predicted": predicted, "true": true.sum(_all_but_channels(true))}


class _Overlap(torch.autograd.Function):
    """Sums of p * target and of p by channel, whose gradient needs one pass over the voxels instead of four."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(target)
        axes = _all_but_channels(p)
        return (p * target).sum(axes), p.sum(axes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (target,) = ctx.saved_tensors
        both, alone = (gradient.reshape(1, -1, *[1] * (target.ndim - 2)) for gradient in gradients)
        return torch.addcmul(alone, both, target), None


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


class PatchVoxels(Voxels):
    """From logits (N, C, *space), with gradients."""

    def __init__(self, logits: Tensor, label: Tensor, regions: Regions | None) -> None:
        super().__init__(label, logits.shape[1], regions)
        self.logits = logits.float()

    @cached_property
    def _log_softmax(self) -> Tensor:
        return F.log_softmax(self.logits, dim=1)

    @cached_property
    def _classes(self) -> Tensor:
        return self.label[:, 0].long()

    @cached_property
    def probabilities(self) -> Tensor:
        if self.regions is not None:
            return self.logits.sigmoid()
        # Half the work of another softmax, where a voxel-wise term has asked for the logarithm already.
        return self._log_softmax.exp() if "_log_softmax" in vars(self) else self.logits.softmax(dim=1)

    @cached_property
    def log_true(self) -> Tensor:
        if self.regions is not None:
            return F.logsigmoid(self.logits * (2 * self.target - 1))
        return -F.nll_loss(self._log_softmax, self._classes, reduction="none")

    def log_likelihood(self) -> Tensor:
        if self.regions is not None:
            return -F.binary_cross_entropy_with_logits(self.logits, self.target, reduction="sum")
        return -F.nll_loss(self._log_softmax, self._classes, reduction="sum")


class VolumeVoxels(Voxels):
    """From probabilities (C, ...) and class values (...) of a volume, or of a part of it."""

    def __init__(self, probabilities: Tensor, label: Tensor, regions: Regions | None) -> None:
        super().__init__(label[None, None], len(probabilities), regions)
        self._probabilities = probabilities[None].clamp(LEAST, 1 - LEAST)

    @property
    def probabilities(self) -> Tensor:
        return self._probabilities

    @cached_property
    def log_true(self) -> Tensor:
        p = self._probabilities
        if self.regions is not None:
            return torch.where(self.target > 0, p, 1 - p).log()
        return p.gather(1, self.label.long())[:, 0].log()


class Loss(nn.Module, ABC):
    """A loss of one head's answer; called with patches, or summed over a volume by :class:`VolumeLoss`.

    One that is a sum over voxels, and something made of it, derives from :class:`SummedLoss`. Any other gives
    :meth:`of`, and sees whole volumes.

    Args:
        regions: overlapping regions, each a channel by itself, instead of exclusive classes.

    Attributes:
        settings: groups of settings that it reads, which its constructor takes one after the other.
        summable: whether a volume may come in parts.
    """

    settings: ClassVar[type[Settings] | tuple[type[Settings], ...]] = ()
    summable: ClassVar[bool] = False

    def __init__(self, *, regions: Regions | None = None) -> None:
        super().__init__()
        self.regions = regions

    @abstractmethod
    def of(self, voxels: Voxels) -> Tensor:
        """Scalar, of all patches together, or of a whole volume."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar, float32.

        Args:
            logits: (N, C, *space), of any floating type.
            label: class values, (N, 1, *space).
        """
        return self.of(PatchVoxels(logits, label, self.regions))


class SummedLoss(Loss):
    """A loss that follows from sums over voxels, so that a volume may come slab by slab."""

    summable = True

    @abstractmethod
    def sums(self, voxels: Voxels) -> Sums:
        """Named sums over voxels, each of a fixed shape; those of the parts add up to the whole's."""

    @abstractmethod
    def finish(self, sums: Sums) -> Tensor:
        """Scalar, from the sums of all voxels."""

    def of(self, voxels: Voxels) -> Tensor:
        return self.finish(self.sums(voxels))


class VolumeLoss:
    """The loss of one whole volume, whose probabilities arrive in parts.

    Args:
        loss: whose sums are added up in float64; for one that cannot be summed all probabilities are kept.
        label_dhw: class values of the volume, on the device where the probabilities arrive.
    """

    def __init__(self, loss: Loss, label_dhw: Tensor) -> None:
        self.loss, self.label_dhw = loss, label_dhw
        self._sums: dict[str, Tensor] = {}
        self._whole: Tensor | None = None

    def add(self, probabilities_cdhw: Tensor, place: Sequence[slice]) -> None:
        """Count a part.

        Args:
            probabilities_cdhw: float32, of classes or regions; copied where it is kept.
            place: where in the label it lies, a slice an axis.
        """
        place = tuple(place)
        if isinstance(self.loss, SummedLoss):
            voxels = VolumeVoxels(probabilities_cdhw, self.label_dhw[place], self.loss.regions)
            for name, part in self.loss.sums(voxels).items():
                self._sums[name] = self._sums.get(name, 0) + part.double()
            return
        if self._whole is None:
            self._whole = probabilities_cdhw.new_zeros(len(probabilities_cdhw), *self.label_dhw.shape)
        self._whole[(slice(None), *place)] = probabilities_cdhw

    def total(self) -> Tensor:
        """Scalar, float64; of a volume that is complete."""
        if isinstance(self.loss, SummedLoss):
            return self.loss.finish(self._sums)
        assert self._whole is not None  # a volume has at least one part
        return self.loss.of(VolumeVoxels(self._whole, self.label_dhw, self.loss.regions)).double()
