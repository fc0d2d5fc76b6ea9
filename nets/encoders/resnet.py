"""ResNets of MedicalNet, 10 to 200 layers, in 3D and 2D (Chen et al. 2019, arXiv:1904.00625).

Two geometries take the same weights and are not equivalent. *Dilated*, as published: the last two
layers keep the resolution and look further by dilation 2 and 4. *Strided* (the default of the dynamic
U-Net): they halve the resolution, which gives a U-Net the pyramid that it wants and costs far less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cases.plan import Topology
from cases.settings import Settings, setting
from nets.blocks import MAX_POOL, ConvNormAct, NetworkError
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from nets.medicalnet import MedicalNet

Shortcut = Literal["A", "B"]

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK_FROM = 50
EXPANSION = 4  # of a bottleneck block: output over inner channels
WIDTHS = (64, 128, 256, 512)
MEDICALNET_SHORTCUT: dict[int, Shortcut] = {18: "A", 34: "A"}  # as published; B for all others


class PaddedSkip(nn.Module):
    """Shortcut A: every stride-th voxel, new channels zero. Holds no parameters."""

    def __init__(self, extra_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.steps = tuple(slice(None, None, s) for s in stride)

    def forward(self, x: Tensor) -> Tensor:
        x = x[(slice(None), slice(None), *self.steps)]
        return F.pad(x, (0, 0) * len(self.steps) + (0, self.extra_channels))


class ResNetBlock(nn.Module):
    """Two convolutions (basic), or 1x1x1 - 3x3x3 - 1x1x1 (bottleneck), and a shortcut around them."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        bottleneck: bool,
        shortcut: Shortcut,
        stride: tuple[int, ...],
        dilation: int = 1,
    ) -> None:
        super().__init__()
        one, three = (1,) * len(stride), (3,) * len(stride)
        out = width * EXPANSION if bottleneck else width
        conv = partial(ConvNormAct, norm="batch", negative_slope=0.0)
        last = partial(ConvNormAct, norm="batch", negative_slope=None)
        if bottleneck:
            self.convs = nn.Sequential(
                conv(in_channels, width, one),
                conv(width, width, three, stride=stride, dilation=dilation),
                last(width, out, one),
            )
        else:
            self.convs = nn.Sequential(
                conv(in_channels, width, three, stride=stride, dilation=dilation),
                last(width, out, three, dilation=dilation),
            )
        self.skip: nn.Module = nn.Identity()
        if max(stride) > 1 or in_channels != out:
            self.skip = (
                PaddedSkip(out - in_channels, stride) if shortcut == "A" else last(in_channels, out, one, stride=stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convs(x) + self.skip(x), inplace=True)


class ResNetEncoder(nn.Module):
    """Stem and four layers, as an :class:`nets.encoders.base.Encoder` whose first stage is below full resolution.

    Args:
        depth: 10, 18, 34, 50, 101, 152 or 200.
        in_channels: of the image.
        shortcut: "A" or "B"; None: as published for this depth.
        strides: of stem, max-pool, layer2, layer3 and layer4, along the spatial axes; None: all 2.
        dilated: the published geometry: layer3 and layer4 keep the resolution, with dilation 2 and 4.
        checkpoint_activations: recompute each block's activations in the backward pass.

    Raises:
        NetworkError: for an unknown depth or shortcut.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 1,
        *,
        dim: int = 3,
        shortcut: Shortcut | None = None,
        strides: Sequence[tuple[int, ...]] | None = None,
        dilated: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        shortcut = shortcut or MEDICALNET_SHORTCUT.get(depth, "B")
        if depth not in BLOCKS or shortcut not in ("A", "B"):
            known = ", ".join(map(str, BLOCKS))
            raise NetworkError(f"ResNet depth {depth}, shortcut {shortcut!r}: known are depths {known}, shortcuts A, B")
        one = (1,) * dim
        given = tuple(strides) if strides is not None else ((2,) * dim,) * 5
        if dilated:
            given = (*given[:3], one, one)
        stem, pool, *later = given
        bottleneck = depth >= BOTTLENECK_FROM
        self.depth, self.shortcut, self.in_channels = depth, shortcut, in_channels
        self.channels = (WIDTHS[0], *(w * EXPANSION if bottleneck else w for w in WIDTHS))
        self.strides = given
        self.checkpoint_activations = checkpoint_activations

        # along an axis that is not halved, the pool must not look sideways either
        kernel = tuple(3 if s > 1 else 1 for s in pool)
        self.pool = MAX_POOL[dim](kernel, pool, tuple(k // 2 for k in kernel))
        first = ConvNormAct(in_channels, WIDTHS[0], (7,) * dim, stride=stem, norm="batch", negative_slope=0.0)
        self.stages = nn.ModuleList([nn.Sequential(first)])
        channels = WIDTHS[0]
        dilations = (1, 1, 2, 4) if dilated else (1, 1, 1, 1)
        for width, count, stride, dilation in zip(WIDTHS, BLOCKS[depth], (one, *later), dilations, strict=True):
            blocks = []
            for i in range(count):
                block = ResNetBlock(
                    channels,
                    width,
                    bottleneck=bottleneck,
                    shortcut=shortcut,
                    stride=one if i else stride,
                    dilation=dilation,
                )
                blocks.append(block)
                channels = width * EXPANSION if bottleneck else width
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, *space) to the outputs of stem (before the max-pool), layer1, layer2, layer3, layer4."""
        features = [self.stages[0](x)]
        x = self.pool(features[0])
        for stage in self.stages[1:]:
            for block in stage.children():
                x = self._run(block, x)
            features.append(x)
        return features

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpoint_activations and self.training and torch.is_grad_enabled()):
            return block(x)
        if torch.compiler.is_compiling():  # which writes the moving statistics once, and takes no contexts
            return checkpoint(block, x, use_reentrant=False)
        return checkpoint(
            block,
            x,
            use_reentrant=False,
            preserve_rng_state=False,  # blocks draw no numbers, and a CUDA graph lets nobody ask for the state
            context_fn=lambda: (nullcontext(), _statistics_frozen(block)),
        )


@contextmanager
def _statistics_frozen(module: nn.Module) -> Iterator[None]:
    """While activations are recomputed: moving statistics have seen this batch already."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


def resnet_strides(strides: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """A topology's strides (its first is full resolution) as the five that a ResNet has.

    A plan that down-samples less often leaves the later layers at stride 1.
    """
    one = (1,) * len(strides[0])
    return (*strides[1:6], *(one,) * (6 - len(strides[:6])))


@dataclass(frozen=True, kw_only=True)
class ResNetSettings(Settings):
    """ResNet encoder."""

    error = NetworkError

    shortcut: Shortcut | None = setting(
        None, "shortcut of a block: A, padded; B, convolution; None: A for 18 and 34, B for the others, as published"
    )
    dilated: bool = setting(
        False, "the published ResNet: its last two layers are dilated; off: they halve the resolution, as a U-Net wants"
    )
    checkpoint_activations: bool = setting(
        False,
        "compute activations twice: a third slower, far less memory; for resnet101 and deeper",
        kept=False,
    )

    def faults(self) -> list[str]:
        return [] if self.shortcut in (None, "A", "B") else [f"shortcut {self.shortcut!r} is neither A nor B"]


@dataclass(frozen=True)
class ResNetEntry:
    """A depth of ``ENCODERS``."""

    depth: int
    settings: Any = ResNetSettings
    reads: tuple[str, ...] = ("conv_seg",)

    def build(self, in_channels: int, stages: Topology, network: NetworkSettings, own: ResNetSettings) -> ResNetEncoder:
        """With the plan's strides, or as published under MedicalNet's own segmentation network."""
        published = self.whole(network) is not None
        return ResNetEncoder(
            self.depth,
            in_channels,
            dim=len(stages.strides[0]),
            shortcut=own.shortcut,
            strides=None if published else resnet_strides(stages.strides),
            dilated=own.dilated or published,
            checkpoint_activations=own.checkpoint_activations,
        )

    def whole(self, network: NetworkSettings) -> Callable[[ResNetEncoder, int], MedicalNet] | None:
        """MedicalNet's segmentation network where ``conv_seg`` asks for it."""
        asked = isinstance(network, SegmentationNetworkSettings) and network.conv_seg
        return MedicalNet if asked else None


RESNET10, RESNET18, RESNET34, RESNET50, RESNET101, RESNET152, RESNET200 = map(ResNetEntry, BLOCKS)
