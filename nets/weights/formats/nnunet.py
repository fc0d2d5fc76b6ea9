"""nnU-Net's networks, versions 1 and 2 (doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import re
from collections.abc import Collection

from cases.plan import Topology
from nets.dynamic_unet import DynamicUNet, SegmentationNetworkSettings
from nets.encoders.unet import UNetEncoder
from nets.weights.files import WeightsError
from nets.weights.formats.base import PART, Rules, WeightFormat
from nets.weights.reading import Weights


def _last_level(keys: Collection[str], pattern: str) -> int:
    """The highest of the decoder's levels, which nnU-Net counts from the bottleneck and we from full resolution."""
    return max((int(m[1]) for key in keys if (m := re.match(pattern, key))), default=-1)


def _v1_rules(keys: Collection[str]) -> Rules:
    last = _last_level(keys, r"tu\.(\d+)\.")
    return [
        (
            r"conv_blocks_context\.(\d+)\.blocks\.(\d+)\.(conv|instnorm)\.(\w+)",
            lambda m: f"encoder.stages.{m[1]}.{m[2]}.{PART[m[3]]}.{m[4]}",
        ),
        (  # the bottleneck: two stacks of (usually) one block
            r"conv_blocks_context\.(\d+)\.(\d+)\.blocks\.(\d+)\.(conv|instnorm)\.(\w+)",
            lambda m: f"encoder.stages.{m[1]}.{int(m[2]) + int(m[3])}.{PART[m[4]]}.{m[5]}",
        ),
        (
            r"conv_blocks_localization\.(\d+)\.(\d+)\.blocks\.(\d+)\.(conv|instnorm)\.(\w+)",
            lambda m: f"decoder.{last - int(m[1])}.convs.{int(m[2]) + int(m[3])}.{PART[m[4]]}.{m[5]}",
        ),
        (r"tu\.(\d+)\.(\w+)", lambda m: f"decoder.{last - int(m[1])}.up.{m[2]}"),
        (r"seg_outputs\.(\d+)\.(\w+)", lambda m: f"heads.{last - int(m[1])}.{m[2]}"),
    ]


def _v2_rules(keys: Collection[str]) -> Rules:
    last = _last_level(keys, r"decoder\.transpconvs\.(\d+)\.")
    return [
        (
            r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(\w+)",
            lambda m: f"encoder.stages.{m[1]}.{m[2]}.{PART[m[3]]}.{m[4]}",
        ),
        (  # residual encoders begin with a stem, ours with the first block's first convolution
            r"encoder\.stem\.convs\.0\.(conv|norm)\.(\w+)",
            lambda m: f"encoder.stages.0.0.convs.0.{PART[m[1]]}.{m[2]}",
        ),
        (
            r"encoder\.stages\.(?!0\.blocks\.0\.conv1)(\d+)\.blocks\.(\d+)\.conv(\d)\.(conv|norm)\.(\w+)",
            lambda m: f"encoder.stages.{m[1]}.{m[2]}.convs.{int(m[3]) - 1}.{PART[m[4]]}.{m[5]}",
        ),
        (
            r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d\.(conv|norm)\.(\w+)",
            lambda m: f"encoder.stages.{m[1]}.{m[2]}.skip.{PART[m[3]]}.{m[4]}",
        ),
        (
            r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(\w+)",
            lambda m: f"decoder.{last - int(m[1])}.convs.{m[2]}.{PART[m[3]]}.{m[4]}",
        ),
        (r"decoder\.transpconvs\.(\d+)\.(\w+)", lambda m: f"decoder.{last - int(m[1])}.up.{m[2]}"),
        (r"decoder\.seg_layers\.(\d+)\.(\w+)", lambda m: f"heads.{last - int(m[1])}.{m[2]}"),
    ]


def _blank(weights: Weights) -> DynamicUNet:
    """Stages, strides and kernels are read off the shapes of the weights."""
    tensors = weights.tensors
    if any(re.fullmatch(r"encoder\.stages\.\d+\.\d+\.convs\..*|encoder\.stages\.\d+\.[2-9]\..*", n) for n in tensors):
        raise WeightsError(
            f"{weights.path} ({weights.title}) has another encoder than two convolutions a stage: "
            "it can start a training (--pretrained, with --res_block for a residual one), not predict"
        )
    levels = sum(re.fullmatch(r"decoder\.\d+\.up\.weight", name) is not None for name in tensors)
    kernels = [weights.shape(f"encoder.stages.{stage}.0.conv.weight") for stage in range(levels + 1)]
    ups = [weights.shape(f"decoder.{level}.up.weight")[2:] for level in range(levels)]
    stages = Topology(
        strides=((1,) * len(ups[0]), *ups),
        kernels=tuple(kernel[2:] for kernel in kernels),
        filters=tuple(kernel[0] for kernel in kernels),
    )
    settings = SegmentationNetworkSettings(
        depth=levels,
        deep_supervision=levels > 1,
        deep_supr_num=max(levels - 1, 1),
    )
    return DynamicUNet(
        UNetEncoder(kernels[0][1], stages),
        weights.shape("heads.0.weight")[0],
        decoder_channels=stages.filters,
        decoder_kernels=[weights.shape(f"decoder.{level}.convs.0.conv.weight")[2:] for level in range(levels)],
        settings=settings,
        bias="decoder.0.up.bias" in tensors,
    )


NNUNET_V1 = WeightFormat(
    title="nnU-Net v1",
    recognises=lambda keys: "conv_blocks_context.0.blocks.0.conv.weight" in keys,
    rules=_v1_rules,
    blank=_blank,
)
NNUNET_V2 = WeightFormat(
    title="nnU-Net v2",
    recognises=lambda keys: (
        "encoder.stages.0.0.convs.0.conv.weight" in keys or "encoder.stem.convs.0.conv.weight" in keys
    ),
    rules=_v2_rules,
    blank=_blank,
    aliases=r".*\.all_modules\..*|decoder\.encoder\..*",
)
