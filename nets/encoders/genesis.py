"""The U-Net of Models Genesis and Semantic Genesis, as published.

Zhou et al. 2021, doi:10.1016/j.media.2020.101840; Haghighi et al. 2021, doi:10.1109/TMI.2021.3060634.
Four levels, max-pooling, two convolutions a level, up-convolutions that keep their channels. The
Semantic Genesis network is the same with ``ClassificationHead(512, 44, hidden=1024, convolution=True)``
on its bottleneck (:func:`semantic_genesis_net`). The Keras twin of Models Genesis up-samples by
repetition: :mod:`nets.weights.formats` turns that into an equal transposed convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from nets.blocks import BATCH_NORM, CONV, MAX_POOL, ConvNormAct, UpBlock, initialise
from nets.dynamic_unet import check_sides
from nets.heads import ClassificationHead, TwoHeaded

CHANNELS: tuple[int, ...] = (64, 128, 256, 512)
KERAS_EPS = 1e-3


class BatchStatisticsNorm(nn.BatchNorm3d):
    """Batch norm over the batch at hand, in evaluation too, as the published PyTorch networks have it.

    The moving statistics are kept up in training (2D and 3D alike), but never used.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (4, 5):
            raise ValueError(f"expected a 4D or 5D input, got {input.dim()}D")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        mean, var = (self.running_mean, self.running_var) if self.training else (None, None)
        return F.batch_norm(input, mean, var, self.weight, self.bias, True, self.momentum or 0.0, self.eps)


class GenesisEncoder(nn.Module):
    """Level i: max-pooling (but at full resolution), then convolutions to 32 * 2**i and 64 * 2**i channels."""

    def __init__(self, in_channels: int = 1, *, dim: int = 3, batch_statistics: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = CHANNELS
        self.strides: tuple[tuple[int, ...], ...] = ((1,) * dim, *((2,) * dim,) * 3)
        self.stages = nn.ModuleList()
        for out in CHANNELS:
            first = _conv(in_channels, out // 2, dim, batch_statistics, eps)
            second = _conv(out // 2, out, dim, batch_statistics, eps)
            self.stages.append(nn.Sequential(first, second))
            in_channels = out
        self.pool = MAX_POOL[dim](2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, *space) to 64, 128, 256 and 512 channels at 1, 1/2, 1/4 and 1/8 of the resolution."""
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(self.pool(x) if features else x)
            features.append(x)
        return features


class GenesisUNet(nn.Module):
    """(N, in_channels, *space) to a tuple of one (N, out_channels, *space): logits, before any sigmoid.

    Args:
        in_channels: the published network has 1.
        out_channels: the published network has 1.
        dim: 3 as published, or 2.
        batch_statistics: normalise by the batch also in evaluation, as the published PyTorch
            network does. False: ordinary batch norm with moving statistics, as the Keras twin does.
        eps: of the normalisation; the Keras twin has 1e-3.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        dim: int = 3,
        batch_statistics: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.encoder = GenesisEncoder(in_channels, dim=dim, batch_statistics=batch_statistics, eps=eps)
        self.out_channels = out_channels
        self.dim = dim
        self.total_stride = (8,) * dim
        self.decoder = nn.ModuleList()
        for skip, below in pairwise(CHANNELS):
            convs = nn.Sequential(
                _conv(below + skip, skip, dim, batch_statistics, eps), _conv(skip, skip, dim, batch_statistics, eps)
            )
            self.decoder.append(UpBlock(below, below, stride=(2,) * dim, convs=convs))
        self.heads = nn.ModuleList([CONV[dim](CHANNELS[0], out_channels, 1)])
        initialise(self, 0.0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Raises PatchSizeError where a side is no multiple of 8."""
        return self.decode(self.skips(x))

    def skips(self, x: Tensor) -> list[Tensor]:
        """Feature maps that :meth:`decode` takes, full resolution first; the last is the bottleneck."""
        check_sides(x.shape[2:], self.total_stride)
        return self.encoder(x)

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
    return TwoHeaded(GenesisUNet(in_channels), head)


def _conv(in_channels: int, out_channels: int, dim: int, batch_statistics: bool, eps: float) -> ConvNormAct:
    norm = BatchStatisticsNorm(out_channels, eps=eps) if batch_statistics else BATCH_NORM[dim](out_channels, eps=eps)
    return ConvNormAct(in_channels, out_channels, (3,) * dim, norm=norm, negative_slope=0.0, bias=True)
