"""ResNets in MedicalNet's layout, with its segmentation head or without (arXiv:1904.00625)."""

from __future__ import annotations

from torch import nn

from nets.encoders.resnet import ResNetEncoder
from nets.medicalnet import MedicalNet
from nets.weights.files import WeightsError
from nets.weights.formats.base import PART, Rules, WeightFormat
from nets.weights.reading import Weights

RULES: Rules = [
    (r"conv1\.(\w+)", r"encoder.stages.0.0.conv.\1"),
    (r"bn1\.(\w+)", r"encoder.stages.0.0.norm_act.norm.\1"),
    (
        r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)",
        lambda m: f"encoder.stages.{m[1]}.{m[2]}.convs.{int(m[4]) - 1}.{PART[m[3] + '1']}.{m[5]}",
    ),
    (r"layer(\d)\.(\d+)\.downsample\.0\.(\w+)", r"encoder.stages.\1.\2.skip.conv.\3"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(\w+)", r"encoder.stages.\1.\2.skip.norm_act.norm.\3"),
    (r"(conv_seg\.\d\.\w+)", r"\1"),
]


def _blank(weights: Weights) -> nn.Module:
    channels = weights.shape("encoder.stages.0.0.conv.weight")[1]
    if weights.resnet is None:
        raise WeightsError(f"{weights.path} is laid out like a ResNet, but its stem is not 7 voxels wide")
    depth, shortcut = weights.resnet
    head = weights.shape("conv_seg.6.weight")
    encoder = ResNetEncoder(depth, channels, dim=len(head) - 2, shortcut=shortcut, dilated=True)
    return MedicalNet(encoder, head[0])


RESNET = WeightFormat(
    title="a ResNet in MedicalNet's layout",
    recognises=lambda keys: "conv1.weight" in keys and "layer1.0.conv1.weight" in keys,
    rules=lambda keys: RULES,
    blank=_blank,
)
