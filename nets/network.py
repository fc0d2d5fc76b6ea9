"""What every network around an encoder has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """An encoder and what makes logits of its feature maps; can be run in halves, so that a head may branch off.

    Attributes:
        encoder: an :class:`nets.encoders.base.Encoder`.
        out_channels: of the logits.
        dim: spatial axes.
        total_stride: a side of the input must be a multiple of this, axis by axis.
    """

    encoder: Any
    out_channels: int
    dim: int
    total_stride: tuple[int, ...]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, *space) to logits (N, out_channels, *space): a tuple, full resolution first."""
        return self.decode(self.skips(x))

    def skips(self, x: Tensor) -> list[Tensor]:
        """Feature maps that :meth:`decode` takes, highest resolution first; the last is the bottleneck."""
        features: list[Tensor] = self.encoder(x)
        return features

    def decode(self, skips: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Feature maps to logits, full resolution first."""
        raise NotImplementedError
