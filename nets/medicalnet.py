"""MedicalNet's published segmentation network (Chen et al. 2019, arXiv:1904.00625)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.blocks import CONV, CONV_TRANSPOSED, initialise
from nets.encoders.base import Encoder
from nets.network import Network
from nets.norm.layers import BATCH_NORM


class MedicalNet(Network):
    """The published segmentation network: dilated ResNet, up-convolution, two convolutions.

    Its logits have a quarter of the input's resolution.

    Args:
        encoder: a dilated :class:`nets.encoders.resnet.ResNetEncoder` with its own strides.
        out_channels: classes.
    """

    def __init__(self, encoder: Encoder, out_channels: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = dim = len(encoder.strides[0])
        self.out_channels = out_channels
        self.total_stride = (1,) * dim  # any size will do: the logits are resized to it
        self.conv_seg = nn.Sequential(
            CONV_TRANSPOSED[dim](self.encoder.channels[-1], 32, 2, 2),
            BATCH_NORM[dim](32),
            nn.ReLU(inplace=True),
            CONV[dim](32, 32, 3, padding=1, bias=False),
            BATCH_NORM[dim](32),
            nn.ReLU(inplace=True),
            CONV[dim](32, out_channels, 1, bias=False),
        )
        initialise(self, 0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, *space) to a tuple of one map of logits.

        In training they stay at a quarter of the resolution, to which the published training resizes
        its labels (nearest). In evaluation the *probabilities* are brought to (N, out_channels, *space)
        linearly, corners staying where they are, as the published test does, and returned as logarithms, so that
        a softmax gives them back.
        """
        logits = self.decode(self.skips(x))[0]
        if self.training:
            return (logits,)
        mode = "bilinear" if self.dim == 2 else "trilinear"
        probabilities = F.interpolate(logits.float().softmax(1), x.shape[2:], mode=mode, align_corners=True)
        return (probabilities.clamp_min(torch.finfo(torch.float32).tiny).log(),)

    def decode(self, skips: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Feature maps to logits at a quarter of the resolution; only the last map is used."""
        return (self.conv_seg(skips[-1]),)
