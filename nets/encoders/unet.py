"""Encoders that the dynamic U-Net can host.

An encoder turns (N, C, *space) into one feature map a stage, highest resolution first. The U-Net
asks for nothing else, so a ResNet whose first stage is already at half resolution fits as well.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from cases.plan import Topology
from nets.blocks import ConvNormAct, Norm, ResidualBlock


@runtime_checkable
class Encoder(Protocol):
    """What a decoder needs to know of an encoder.

    Attributes:
        in_channels: of the image.
        channels: of each stage's feature map, highest resolution first.
        strides: of each stage against the one before (the first against the image), along the spatial axes.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """(N, C, *space) to one (N, channels[i], *space / product of strides[: i + 1]) a stage."""
        ...


class UNetEncoder(nn.Module):
    """Two convolutions a stage, or one residual block; the first convolution of a stage carries its stride."""

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        *,
        norm: Norm = "instance",
        negative_slope: float = 0.01,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = topology.filters
        self.strides = topology.strides
        self.residual = residual
        self.stages = nn.ModuleList()
        for out, kernel, stride in zip(topology.filters, topology.kernels, topology.strides, strict=True):
            if residual:
                block = ResidualBlock(in_channels, out, kernel, stride=stride, norm=norm, negative_slope=negative_slope)
                self.stages.append(nn.Sequential(block))
            else:
                first = ConvNormAct(in_channels, out, kernel, stride=stride, norm=norm, negative_slope=negative_slope)
                second = ConvNormAct(out, out, kernel, norm=norm, negative_slope=negative_slope)
                self.stages.append(nn.Sequential(first, second))
            in_channels = out

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
