"""The dynamic U-Net: any encoder, and a decoder that mirrors it back to full resolution.

Isensee et al. 2021, doi:10.1038/s41592-020-01008-z. Level 0 is full resolution, level i lies i
down-samplings below; parameters are named by level, so that networks of other depth can share weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from cases.plan import Plan, Topology, topology
from nets.blocks import CHANNELS_LAST, CONV, ConvNormAct, NetworkError, Norm, UpBlock, initialise
from nets.encoders.resnet import BLOCKS, ResNetEncoder, Shortcut, resnet_strides
from nets.encoders.unet import Encoder, UNetEncoder

ENCODERS = ("unet", "genesis", *(f"resnet{depth}" for depth in BLOCKS))


class PatchSizeError(NetworkError):
    """An input whose sides the network cannot halve as often as it must."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What a user chooses about the network; the plan fixes the rest."""

    depth: int = 5
    """The most down-samplings."""
    min_fmap: int = 4
    """Smallest side of a feature map."""
    filters: tuple[int, ...] | None = None
    """Channels of each stage; None: 32, 64, 128, 256, then 320 (3D) or 512 (2D)."""
    norm: Norm = "instance"
    """A ResNet encoder keeps its batch norm, whose statistics come with its weights, and so does genesis."""
    negative_slope: float = 0.01
    """Of LeakyReLU."""
    res_block: bool = False
    """Residual blocks in the encoder; the decoder stays plain, as nnU-Net's residual networks have it."""
    more_chn: bool = False
    """64, 96, 128, 192, 256, 384, 512 channels, in the encoder and the decoder."""
    deep_supervision: bool = False
    deep_supr_num: int = 2
    """Heads below full resolution that deep supervision adds."""
    channels_last: bool = False
    """Keep activations as (N, *space, C) in memory; the faster layout for mixed precision."""
    bias: bool = True
    """Biases of up-samplings and heads. nnU-Net v2 has them; off makes a network that v1 can hold."""

    encoder: str = "unet"
    """unet; resnet10, 18, 34, 50, 101, 152 or 200; or genesis, the published network of Models Genesis."""
    shortcut: Shortcut | None = None
    """Of a ResNet's blocks: A (padded) or B (convolution); None: A for 18 and 34, B for the others, as published."""
    dilated: bool = False
    """The published ResNet geometry: the last two layers are dilated and do not down-sample."""
    checkpoint_activations: bool = False
    """Recompute a ResNet's activations in the backward pass: slower, and far less memory."""
    conv_seg: bool = False
    """MedicalNet's published segmentation network in the place of a U-Net: the dilated ResNet and its own head."""

    def __post_init__(self) -> None:
        if self.filters is not None:  # a list, where the settings come from JSON
            object.__setattr__(self, "filters", tuple(self.filters))
        faults = []
        if self.encoder not in ENCODERS:
            faults.append(f"encoder {self.encoder!r} is not one of {', '.join(ENCODERS)}")
        if self.shortcut not in (None, "A", "B"):
            faults.append(f"shortcut {self.shortcut!r} is neither A nor B")
        of_resnets = self.shortcut or self.dilated or self.checkpoint_activations or self.conv_seg
        if not self.resnet_depth and of_resnets:
            faults.append(
                f"shortcut, dilated, checkpoint_activations and conv_seg belong to ResNets, not to {self.encoder!r}"
            )
        if self.conv_seg and (self.filters or self.more_chn or self.deep_supervision):
            faults.append("filters, more_chn and deep_supervision do not change the published network of conv_seg")
        if self.encoder != "unet" and self.res_block:
            faults.append(f"res_block belongs to the encoder unet, not to {self.encoder!r}")
        if self.encoder == "genesis" and (self.filters or self.more_chn or self.deep_supervision):
            faults.append("filters, more_chn and deep_supervision do not change the published network genesis")
        if self.depth < 1:
            faults.append(f"depth {self.depth} is below 1")
        if self.min_fmap < 1:
            faults.append(f"min_fmap {self.min_fmap} is below 1")
        if self.filters is not None and (not self.filters or min(self.filters) < 1):
            faults.append(f"filters {self.filters} are not positive")
        if self.filters is not None and self.more_chn:
            faults.append("filters and more_chn exclude each other")
        if self.norm not in get_args(Norm):
            faults.append(f"norm {self.norm!r} is not one of {', '.join(get_args(Norm))}")
        if self.negative_slope < 0:
            faults.append(f"negative_slope {self.negative_slope} is below 0")
        if self.deep_supr_num < 1:
            faults.append(f"deep_supr_num {self.deep_supr_num} is below 1")
        if faults:
            raise NetworkError("network: " + "; ".join(faults))

    @property
    def resnet_depth(self) -> int:
        """50 for resnet50; 0 for an encoder that is no ResNet."""
        return int(self.encoder.removeprefix("resnet")) if self.encoder in ENCODERS[2:] else 0


class DynamicUNet(nn.Module):
    """Encoder, decoder, and a head for each supervised resolution.

    Args:
        encoder: any :class:`Encoder`. Where its first stage is below full resolution, the image
            itself is the skip at full resolution.
        out_channels: of the logits.
        decoder_channels: of each level's decoder stage, full resolution first.
        decoder_kernels: of each level's decoder convolutions.
        settings: see :class:`NetworkSettings`.
    """

    def __init__(
        self,
        encoder: Encoder,
        out_channels: int,
        *,
        decoder_channels: Sequence[int],
        decoder_kernels: Sequence[Sequence[int]],
        settings: NetworkSettings,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = out_channels
        strides, channels = list(encoder.strides), list(encoder.channels)
        self.image_is_skip = max(strides[0]) > 1
        if self.image_is_skip:
            channels.insert(0, encoder.in_channels)
        else:
            strides.pop(0)
        self.dim = len(strides[0])
        self.total_stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

        slope = settings.negative_slope
        below, stages = channels[-1], []
        for level in reversed(range(len(strides))):
            out, kernel = decoder_channels[level], tuple(decoder_kernels[level])
            convs = nn.Sequential(
                ConvNormAct(out + channels[level], out, kernel, norm=settings.norm, negative_slope=slope),
                ConvNormAct(out, out, kernel, norm=settings.norm, negative_slope=slope),
            )
            stages.append(UpBlock(below, out, stride=strides[level], convs=convs, bias=settings.bias))
            below = out
        self.decoder = nn.ModuleList(stages[::-1])  # by level: 0 is full resolution

        lower = min(settings.deep_supr_num, len(self.decoder) - 1) if settings.deep_supervision else 0
        one = (1,) * self.dim
        self.heads = nn.ModuleList(
            CONV[self.dim](decoder_channels[level], out_channels, one, bias=settings.bias) for level in range(lower + 1)
        )
        initialise(self, slope)
        self.memory_format = torch.contiguous_format
        if settings.channels_last:
            self.memory_format = CHANNELS_LAST[self.dim]
            self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, *space) to logits (N, out_channels, *space).

        Always a tuple, full resolution first; in training with deep supervision one more, coarser
        map follows for each further head.

        Raises:
            PatchSizeError: where a side of ``x`` is no multiple of the total stride.
        """
        return self.decode(self.skips(x))

    def skips(self, x: Tensor) -> list[Tensor]:
        """Feature maps that :meth:`decode` takes, full resolution first; the last is the bottleneck."""
        check_sides(x.shape[2:], self.total_stride)
        x = x.contiguous(memory_format=self.memory_format)
        features = self.encoder(x)
        return [x, *features] if self.image_is_skip else features

    def decode(self, skips: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Feature maps of every level, full resolution first, to logits as :meth:`forward` returns them."""
        heads = len(self.heads) if self.training else 1
        logits = []
        x = skips[-1]
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](x, skips[level])
            if level < heads:
                logits.append(self.heads[level](x))
        return tuple(reversed(logits))


def check_sides(sides: Sequence[int], total_stride: Sequence[int]) -> None:
    """Raises PatchSizeError, with the nearest sides that fit, unless each side is a multiple of its stride."""
    if len(sides) != len(total_stride):
        raise PatchSizeError(f"an input of {len(sides)} spatial axes for a network of {len(total_stride)}")
    if any(side % stride for side, stride in zip(sides, total_stride, strict=True)):
        fit = tuple(math.ceil(side / stride) * stride for side, stride in zip(sides, total_stride, strict=True))
        raise PatchSizeError(
            f"patch sides {tuple(sides)} must be multiples of the network's total stride {tuple(total_stride)}: "
            f"take {fit}, or a shallower network"
        )


def plan_topology(plan: Plan, settings: NetworkSettings) -> Topology:
    """Stages that suit the plan under the user's limits. Raises PlanError where filters are too few."""
    return topology(
        plan.patch_size,
        plan.network_spacing,
        depth=settings.depth,
        min_fmap=settings.min_fmap,
        filters=settings.filters,
        more_chn=settings.more_chn,
    )


def build_unet(plan: Plan, settings: NetworkSettings, *, out_channels: int | None = None) -> DynamicUNet:
    """The U-Net of a plan, with the encoder of the settings; ``out_channels`` defaults to the plan's classes.

    Raises:
        PlanError: for too few filters.
        NetworkError: for a patch too small to be halved even once.
    """
    stages = plan_topology(plan, settings)
    if stages.stages < 2:
        raise NetworkError(
            f"patch {plan.patch_size} cannot be halved down to feature maps of {settings.min_fmap}: "
            "take a larger patch with even sides, or lower --min_fmap"
        )
    classes = plan.n_class if out_channels is None else out_channels
    if settings.resnet_depth:
        return _resnet_unet(plan, stages, classes, settings)
    encoder = UNetEncoder(
        plan.in_channels,
        stages,
        norm=settings.norm,
        negative_slope=settings.negative_slope,
        residual=settings.res_block,
    )
    return DynamicUNet(
        encoder, classes, decoder_channels=stages.filters, decoder_kernels=stages.kernels, settings=settings
    )


def _resnet_unet(plan: Plan, stages: Topology, out_channels: int, settings: NetworkSettings) -> DynamicUNet:
    """The decoder has the widths of the plain network, since a ResNet's own, up to 2048, would outweigh it."""
    encoder = ResNetEncoder(
        settings.resnet_depth,
        plan.in_channels,
        dim=plan.dim,
        shortcut=settings.shortcut,
        strides=resnet_strides(stages.strides),
        dilated=settings.dilated,
        checkpoint_activations=settings.checkpoint_activations,
    )
    missing = len(encoder.strides) - stages.stages
    return DynamicUNet(
        encoder,
        out_channels,
        decoder_channels=(*stages.filters, *(stages.filters[-1],) * missing),
        decoder_kernels=(*stages.kernels, *((3,) * plan.dim,) * missing),
        settings=settings,
    )
