"""The U-Net of Models Genesis and Semantic Genesis, as published.

Zhou et al. 2021, doi:10.1016/j.media.2020.101840; Haghighi et al. 2021, doi:10.1109/TMI.2021.3060634.
Four levels, max-pooling, two convolutions a level, up-convolutions that keep their channels. The
Semantic Genesis network is the same with ``ClassificationHead(512, 44, hidden=1024, convolution=True)``
on its bottleneck (:func:`semantic_genesis_net`). The Keras twin of Models Genesis up-samples by
repetition: :mod:`nets.weights.formats.keras` turns that into an equal transposed convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from cases.plan import Topology
from nets.blocks import CONV, MAX_POOL, ConvNormAct, UpBlock, initialise
from nets.dynamic_unet import NetworkSettings, check_sides
from nets.heads import ClassificationHead, TwoHeaded
from nets.network import Network
from nets.norm.layers import BATCH_NORM, BatchStatisticsNorm

CHANNELS: tuple[int, ...] = (64, 128, 256, 512)
KERAS_EPS = 1e-3


class GenesisEncoder(nn.Module):
    """Level i: max-pooling (but at full resolution), then convolutions to 32 * 2**i and 64 * 2**i channels.

    Args:
        in_channels: the published network has 1.
        dim: 3 as published, or 2.
        batch_statistics: normalise by the batch also in evaluation, as the published PyTorch network does.
            False: ordinary batch norm with moving statistics, as the Keras twin does.
        eps: of the normalisation; the Keras twin has 1e-3.
    """

    def __init__(self, in_channels: int = 1, *, dim: int = 3, batch_statistics: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.batch_statistics, self.eps = batch_statistics, eps
        self.channels = CHANNELS
        self.strides: tuple[tuple[int, ...], ...] = ((1,) * dim, *((2,) * dim,) * 3)
        self.stages = nn.ModuleList()
        for out in CHANNELS:
            first = self.conv(in_channels, out // 2)
            second = self.conv(out // 2, out)
            self.stages.append(nn.Sequential(first, second))
            in_channels = out
        self.pool = MAX_POOL[dim](2)

    @classmethod
    def build(cls, in_channels: int, stages: Topology, network: NetworkSettings) -> GenesisEncoder:
        """The published encoder, whatever the plan and the settings say of stages."""
        return cls(in_channels, dim=len(stages.strides[0]))

    @staticmethod
    def whole(network: NetworkSettings) -> Callable[[GenesisEncoder, int], GenesisUNet]:
        """Always the published U-Net."""
        return GenesisUNet

    def conv(self, in_channels: int, out_channels: int) -> ConvNormAct:
        """A convolution as all of the network are: kernel 3, bias, batch norm, ReLU."""
        dim = len(self.strides[0])
        kind = BatchStatisticsNorm if self.batch_statistics else BATCH_NORM[dim]
        norm = kind(out_channels, eps=self.eps)
        return ConvNormAct(in_channels, out_channels, (3,) * dim, norm=norm, negative_slope=0.0, bias=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, *space) to 64, 128, 256 and 512 channels at 1, 1/2, 1/4 and 1/8 of the resolution."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(self.pool(x) if features else x)
            features.append(x)
        return features


class GenesisUNet(Network):
    """(N, in_channels, *space) to a tuple of one (N, out_channels, *space): logits, before any sigmoid.

    Args:
        encoder: decides the dimensions and the normalisation of the decoder too.
        out_channels: the published network has 1.
    """

    def __init__(self, encoder: GenesisEncoder, out_channels: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = out_channels
        self.dim = dim = len(encoder.strides[0])
        self.total_stride = (8,) * dim
        self.decoder = nn.ModuleList()
        for skip, below in pairwise(CHANNELS):
            convs = nn.Sequential(encoder.conv(below + skip, skip), encoder.conv(skip, skip))
            self.decoder.append(UpBlock(below, below, stride=(2,) * dim, convs=convs))
        self.heads = nn.ModuleList([CONV[dim](CHANNELS[0], out_channels, 1)])
        initialise(self, 0.0)

    def skips(self, x: Tensor) -> list[Tensor]:
        """The encoder's feature maps. Raises PatchSizeError where a side is no multiple of 8."""
        check_sides(x.shape[2:], self.total_stride)
        return super().skips(x)

    def decode(self, skips: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Feature maps, full resolution first, to a tuple of logits."""
        x = skips[-1]
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](x, skips[level])
        return (self.heads[0](x),)


def semantic_genesis_net(in_channels: int = 1, n_class: int = 44) -> TwoHeaded:
    """The published network of Semantic Genesis: (restoration logits, class logits)."""
    norm = BatchStatisticsNorm(1024)
    head = ClassificationHead(CHANNELS[-1], n_class, hidden=1024, convolution=True, norm=norm)
    return TwoHeaded(GenesisUNet(GenesisEncoder(in_channels)), head)
