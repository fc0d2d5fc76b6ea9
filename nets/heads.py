"""Heads on an encoder, and networks with two outputs.

Segmentation and restoration need no module of their own: both are the last 1x1x1 convolution of a
U-Net, its logits read through a softmax (segmentation) or a sigmoid (restoration, one output a channel).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.blocks import ConvNormAct, initialise
from nets.encoders.base import Encoder
from nets.network import Network


class ClassificationHead(nn.Module):
    """Bottleneck (N, C, *space) to class logits (N, n_class).

    ``hidden`` None: global average, one linear layer. ``hidden`` 1024: global average, dense 1024, ReLU,
    linear, as Models Genesis publishes it (doi:10.1016/j.media.2020.101840). With ``convolution`` the
    dense layer is a 3x3x3 convolution with batch norm and ReLU before the average, as in Semantic
    Genesis (doi:10.1109/TMI.2021.3060634), whose softmax belongs to the loss here.
    """

    def __init__(
        self,
        in_channels: int,
        n_class: int,
        *,
        dim: int = 3,
        hidden: int | None = None,
        convolution: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Identity()
        self.dense: nn.Module = nn.Identity()
        if hidden and convolution:
            self.conv = ConvNormAct(
                in_channels, hidden, (3,) * dim, norm="batch" if norm is None else norm, negative_slope=0.0, bias=True
            )
        elif hidden:
            self.dense = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(inplace=True))
        self.linear = nn.Linear(hidden or in_channels, n_class)
        initialise(self, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(x).flatten(2).mean(-1)
        return self.linear(self.dense(pooled))


class Classifier(nn.Module):
    """An encoder and a :class:`ClassificationHead`: (N, C, *space) to logits (N, n_class)."""

    def __init__(self, encoder: Encoder, n_class: int, *, hidden: int | None = 1024) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = ClassificationHead(encoder.channels[-1], n_class, dim=len(encoder.strides[0]), hidden=hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[-1])


class TwoHeaded(nn.Module):
    """A U-Net with a classification head at its bottleneck, trained on both outputs at once.

    forward returns (the U-Net's logits at full resolution, class logits). ``decoder`` False skips
    the first, for classification alone, and returns None in its place.
    """

    def __init__(self, net: Network, head: ClassificationHead) -> None:
        super().__init__()
        self.net = net
        self.head = head

    def forward(self, x: Tensor, *, decoder: bool = True) -> tuple[Tensor | None, Tensor]:
        skips = self.net.skips(x)
        return (self.net.decode(skips)[0] if decoder else None), self.head(skips[-1])


def global_features(bottleneck: Tensor) -> Tensor:
    """(N, C, *space) to the vector (N, C) that stands for a whole scan: the mean over space, in float32."""
    return bottleneck.flatten(2).mean(-1, dtype=torch.float32)
