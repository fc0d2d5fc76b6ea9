"""The plain encoder of a U-Net, and the residual one (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

from torch import Tensor, nn

from cases.plan import Topology
from nets.blocks import ConvNormAct, ResidualBlock
from nets.dynamic_unet import NetworkSettings


class UNetEncoder(nn.Module):
    """Two convolutions a stage, or one residual block; the first convolution of a stage carries its stride."""

    reads = ("res_block",)

    def __init__(
        self,
        in_channels: int,
        topology: Topology,
        *,
        norm: str = "instance",
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

    @classmethod
    def build(cls, in_channels: int, stages: Topology, network: NetworkSettings) -> UNetEncoder:
        """Stages, kernels and channels as the plan's topology has them."""
        return cls(
            in_channels,
            stages,
            norm=network.norm,
            negative_slope=network.negative_slope,
            residual=network.res_block,
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, *space) to one (N, filters[i], *space / product of strides[: i + 1]) a stage."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
