"""Models Genesis and Semantic Genesis in PyTorch (doi:10.1016/j.media.2020.101840, doi:10.1109/TMI.2021.3060634)."""

from __future__ import annotations

from torch import nn

from nets.encoders.genesis import GenesisEncoder, GenesisUNet, semantic_genesis_net
from nets.weights.formats.base import PART, Rules, WeightFormat
from nets.weights.reading import Weights

LEVEL = {"64": 0, "128": 1, "256": 2, "512": 3}
RULES: Rules = [
    (
        r"down_tr(\d+)\.ops\.(\d)\.(conv1|bn1)\.(\w+)",
        lambda m: f"encoder.stages.{LEVEL[m[1]]}.{m[2]}.{PART[m[3]]}.{m[4]}",
    ),
    (r"up_tr(\d+)\.up_conv\.(\w+)", lambda m: f"decoder.{LEVEL[m[1]]}.up.{m[2]}"),
    (
        r"up_tr(\d+)\.ops\.(\d)\.(conv1|bn1)\.(\w+)",
        lambda m: f"decoder.{LEVEL[m[1]]}.convs.{m[2]}.{PART[m[3]]}.{m[4]}",
    ),
    (r"out_tr\.final_conv\.(\w+)", r"heads.0.\1"),
    (r"clc_out\.(conv1|bn1)\.(\w+)", lambda m: f"head.conv.{PART[m[1]]}.{m[2]}"),
    (r"clc_out\.fc1\.(\w+)", r"head.linear.\1"),
    (r"dense_1\.(\w+)", r"head.dense.0.\1"),
    (r"dense_2\.(\w+)", r"head.linear.\1"),
]


def _genesis(weights: Weights) -> nn.Module:
    channels = weights.shape("encoder.stages.0.0.conv.weight")[1]
    return GenesisUNet(GenesisEncoder(channels), weights.shape("heads.0.weight")[0])


def _semantic_genesis(weights: Weights) -> nn.Module:
    channels = weights.shape("encoder.stages.0.0.conv.weight")[1]
    return semantic_genesis_net(channels, weights.shape("head.linear.weight")[0])


GENESIS = WeightFormat(
    title="Models Genesis (PyTorch)",
    recognises=lambda keys: "down_tr64.ops.0.conv1.weight" in keys,
    rules=lambda keys: RULES,
    blank=_genesis,
    xyz=True,
    encoder="--encoder genesis",
)
SEMANTIC_GENESIS = WeightFormat(
    title="Semantic Genesis",
    recognises=lambda keys: GENESIS.recognises(keys) and "clc_out.fc1.weight" in keys,
    rules=lambda keys: RULES,
    blank=_semantic_genesis,
    xyz=True,
    encoder="--encoder genesis",
)
