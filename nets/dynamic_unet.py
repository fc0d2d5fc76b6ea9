"""The dynamic U-Net: any encoder, and a decoder that mirrors it back to full resolution.

Isensee et al. 2021, doi:10.1038/s41592-020-01008-z. Level 0 is full resolution, level i lies i
down-samplings below; parameters are named by level, so that networks of other depth can share weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cases.plan import DEPTH, MIN_FMAP
from cases.settings import Settings, at_least, setting
from nets.blocks import CHANNELS_LAST, CONV, ConvNormAct, NetworkError, UpBlock, initialise, name_fault
from nets.conv.own import When
from nets.encoders import ENCODERS
from nets.encoders.base import DECODER_FIELDS, Encoder, whole_network
from nets.network import Network
from nets.norm import NORMS


class PatchSizeError(NetworkError):
    """An input whose sides the network cannot halve as often as it must."""


def _positive(filters: tuple[int, ...]) -> str:
    return "" if filters and min(filters) >= 1 else "are not positive"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Settings):
    """Network; what is not asked here, the plan decides."""

    error = NetworkError

    encoder: str = setting(
        "unet",
        "the plan's own U-Net; genesis, the published network; or a ResNet. Not given: the ResNet, with its shortcut, "
        "that --pretrained holds, else unet",
        flags=("--network",),
        variants=ENCODERS,
    )
    depth: int = setting(DEPTH, "the most down-samplings", check=at_least(1))
    min_fmap: int = setting(MIN_FMAP, "smallest side of a feature map", check=at_least(1))
    filters: tuple[int, ...] | None = setting(
        None, "channels of each stage; None: 32, 64, 128, ... at most 320 (512 in 2D)", check=_positive
    )
    norm: str = setting(
        "instance",
        "normalisation; a ResNet and genesis keep their batch norm, whose statistics come with their weights",
        variants=NORMS,
    )
    negative_slope: float = setting(0.01, "slope of LeakyReLU below 0", check=at_least(0))
    res_block: bool = setting(False, "residual blocks in the encoder; the decoder stays plain")
    more_chn: bool = setting(False, "64, 96, 128, 192, 256, 384, 512, ... channels, in the encoder and the decoder")
    layout: Literal["NCDHW", "NDHWC"] = setting(
        "NCDHW",
        "memory layout of activations; NDHWC is channels-last, faster in mixed precision: --amp on a GPU takes it in "
        "3D where this flag is not given",
        kept=False,
    )

    own_conv: When = setting(
        "never",
        "3x3x3 convolutions into 32 channels by our own kernel, on CUDA in mixed precision and NDHWC; auto measures "
        "each kind at its first call and takes what is faster",
        kept=False,
    )

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Mixed precision on a GPU wants 3D networks channels-last: its tensor cores take that layout alone."""
        half = given.get("amp") and given.get("gpus") != 0 and torch.cuda.is_available()
        return {"layout": "NDHWC"} if half and "layout" not in given and given.get("dim", 3) == 3 else {}

    def faults(self) -> list[str]:
        """Names that are in no table, and settings that the encoder does not read."""
        faults = [fault for fault in (name_fault(ENCODERS, self.encoder), name_fault(NORMS, self.norm)) if fault]
        if self.filters is not None and self.more_chn:
            faults.append("filters and more_chn exclude each other")
        return faults if name_fault(ENCODERS, self.encoder) else [*self._encoder_faults(), *faults]

    def _encoder_faults(self) -> list[str]:
        entry = ENCODERS.get(self.encoder)
        faults = []
        for name in ("res_block", "conv_seg"):
            if getattr(self, name, False) and name not in getattr(entry, "reads", ()):
                readers = ", ".join(known for known in ENCODERS if name in getattr(ENCODERS.get(known), "reads", ()))
                faults.append(f"{name} belongs to {readers}, not to {self.encoder!r}")
        if whole_network(entry, self) and any(getattr(self, name, None) for name in DECODER_FIELDS):
            faults.append(
                f"filters, more_chn and deep_supervision do not change the published network of {self.encoder}: "
                f"give --encoder unet{self._filters_and_depth()}"
            )
        return faults

    def _filters_and_depth(self) -> str:
        return f" --filters {' '.join(map(str, self.filters))} --depth {len(self.filters) - 1}" if self.filters else ""

    @property
    def lower_heads(self) -> int:
        """Heads below full resolution that the decoder has at most."""
        return 0


@dataclass(frozen=True, kw_only=True)
class SegmentationNetworkSettings(NetworkSettings):
    """Network for segmentation."""

    deep_supervision: bool = setting(False, "losses at lower resolutions too")
    deep_supr_num: int = setting(2, "how many lower resolutions", check=at_least(0))
    conv_seg: bool = setting(
        False,
        "MedicalNet's published segmentation network instead of a U-Net: the dilated ResNet and a head at a quarter of "
        "the resolution",
    )

    @property
    def lower_heads(self) -> int:
        return max(self.deep_supr_num, 1) if self.deep_supervision else 0


class DynamicUNet(Network):
    """Encoder, decoder, and a head for each supervised resolution.

    Args:
        encoder: any :class:`Encoder`. Where its first stage is below full resolution, the image
            itself is the skip at full resolution.
        out_channels: of the logits.
        decoder_channels: of each level's decoder stage, full resolution first.
        decoder_kernels: of each level's decoder convolutions.
        settings: see :class:`NetworkSettings`.
        bias: of up-samplings and heads. nnU-Net v2 has them; without, it is a network that v1 can hold.
    """

    def __init__(
        self,
        encoder: Encoder,
        out_channels: int,
        *,
        decoder_channels: Sequence[int],
        decoder_kernels: Sequence[Sequence[int]],
        settings: NetworkSettings,
        bias: bool = True,
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
            stages.append(UpBlock(below, out, stride=strides[level], convs=convs, bias=bias))
            below = out
        self.decoder = nn.ModuleList(stages[::-1])  # by level: 0 is full resolution

        lower = min(settings.lower_heads, len(self.decoder) - 1)
        one = (1,) * self.dim
        self.heads = nn.ModuleList(
            CONV[self.dim](decoder_channels[level], out_channels, one, bias=bias) for level in range(lower + 1)
        )
        initialise(self, slope)
        self.memory_format = torch.contiguous_format
        if settings.layout == "NDHWC":
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
