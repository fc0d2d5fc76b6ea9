"""Other people's parameter names, and ours: one table a format.

Every format is turned into the names of our own networks::

    encoder.stages.<stage>.<unit>.conv.weight                     plain convolutions
    encoder.stages.<stage>.<block>.convs.<unit>.conv.weight       residual blocks and ResNets
    encoder.stages.<stage>.<block>.skip.conv.weight               the way around a block
    ....norm_act.norm.{weight,bias,running_mean,running_var}      the normalisation behind a convolution
    decoder.<level>.up.weight, decoder.<level>.convs.<unit>...    level 0 is full resolution
    heads.<level>.weight, head..., conv_seg...                    logits, classification, MedicalNet's head

so that whatever matches weights to a network (:mod:`nets.weights.matching`) sees one naming only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Format = Literal["own", "genesis", "semantic_genesis", "genesis_keras", "nnunet_v1", "nnunet_v2", "resnet"]

# One table a format: the first pattern that matches a whole key gives our name. ``n`` is the number of
# decoder levels, which nnU-Net counts from the bottleneck and we from full resolution.
Name = str | Callable[[re.Match[str], int], str]
_LEVEL = {"64": 0, "128": 1, "256": 2, "512": 3}
_PART = {"conv": "conv", "conv1": "conv", "bn1": "norm_act.norm", "instnorm": "norm_act.norm", "norm": "norm_act.norm"}


def _up(level: int, n: int) -> int:
    return n - 1 - level


_GENESIS: list[tuple[str, Name]] = [
    (
        r"down_tr(\d+)\.ops\.(\d)\.(conv1|bn1)\.(\w+)",
        lambda m, n: f"encoder.stages.{_LEVEL[m[1]]}.{m[2]}.{_PART[m[3]]}.{m[4]}",
    ),
    (r"up_tr(\d+)\.up_conv\.(\w+)", lambda m, n: f"decoder.{_LEVEL[m[1]]}.up.{m[2]}"),
    (
        r"up_tr(\d+)\.ops\.(\d)\.(conv1|bn1)\.(\w+)",
        lambda m, n: f"decoder.{_LEVEL[m[1]]}.convs.{m[2]}.{_PART[m[3]]}.{m[4]}",
    ),
    (r"out_tr\.final_conv\.(\w+)", r"heads.0.\1"),
    (r"clc_out\.(conv1|bn1)\.(\w+)", lambda m, n: f"head.conv.{_PART[m[1]]}.{m[2]}"),
    (r"clc_out\.fc1\.(\w+)", r"head.linear.\1"),
    (r"dense_1\.(\w+)", r"head.dense.0.\1"),
    (r"dense_2\.(\w+)", r"head.linear.\1"),
]
_NNUNET_V1: list[tuple[str, Name]] = [
    (
        r"conv_blocks_context\.(\d+)\.blocks\.(\d+)\.(conv|instnorm)\.(\w+)",
        lambda m, n: f"encoder.stages.{m[1]}.{m[2]}.{_PART[m[3]]}.{m[4]}",
    ),
    (  # the bottleneck: two stacks of (usually) one block
        r"conv_blocks_context\.(\d+)\.(\d+)\.blocks\.(\d+)\.(conv|instnorm)\.(\w+)",
        lambda m, n: f"encoder.stages.{m[1]}.{int(m[2]) + int(m[3])}.{_PART[m[4]]}.{m[5]}",
    ),
    (
        r"conv_blocks_localization\.(\d+)\.(\d+)\.blocks\.(\d+)\.(conv|instnorm)\.(\w+)",
        lambda m, n: f"decoder.{_up(int(m[1]), n)}.convs.{int(m[2]) + int(m[3])}.{_PART[m[4]]}.{m[5]}",
    ),
    (r"tu\.(\d+)\.(\w+)", lambda m, n: f"decoder.{_up(int(m[1]), n)}.up.{m[2]}"),
    (r"seg_outputs\.(\d+)\.(\w+)", lambda m, n: f"heads.{_up(int(m[1]), n)}.{m[2]}"),
]
_NNUNET_V2: list[tuple[str, Name]] = [
    (
        r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(\w+)",
        lambda m, n: f"encoder.stages.{m[1]}.{m[2]}.{_PART[m[3]]}.{m[4]}",
    ),
    (  # residual encoders begin with a stem, ours with the first block's first convolution
        r"encoder\.stem\.convs\.0\.(conv|norm)\.(\w+)",
        lambda m, n: f"encoder.stages.0.0.convs.0.{_PART[m[1]]}.{m[2]}",
    ),
    (
        r"encoder\.stages\.(?!0\.blocks\.0\.conv1)(\d+)\.blocks\.(\d+)\.conv(\d)\.(conv|norm)\.(\w+)",
        lambda m, n: f"encoder.stages.{m[1]}.{m[2]}.convs.{int(m[3]) - 1}.{_PART[m[4]]}.{m[5]}",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d\.(conv|norm)\.(\w+)",
        lambda m, n: f"encoder.stages.{m[1]}.{m[2]}.skip.{_PART[m[3]]}.{m[4]}",
    ),
    (
        r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(\w+)",
        lambda m, n: f"decoder.{_up(int(m[1]), n)}.convs.{m[2]}.{_PART[m[3]]}.{m[4]}",
    ),
    (r"decoder\.transpconvs\.(\d+)\.(\w+)", lambda m, n: f"decoder.{_up(int(m[1]), n)}.up.{m[2]}"),
    (r"decoder\.seg_layers\.(\d+)\.(\w+)", lambda m, n: f"heads.{_up(int(m[1]), n)}.{m[2]}"),
]
_RESNET: list[tuple[str, Name]] = [
    (r"conv1\.(\w+)", r"encoder.stages.0.0.conv.\1"),
    (r"bn1\.(\w+)", r"encoder.stages.0.0.norm_act.norm.\1"),
    (
        r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)",
        lambda m, n: f"encoder.stages.{m[1]}.{m[2]}.convs.{int(m[4]) - 1}.{_PART[m[3] + '1']}.{m[5]}",
    ),
    (r"layer(\d)\.(\d+)\.downsample\.0\.(\w+)", r"encoder.stages.\1.\2.skip.conv.\3"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(\w+)", r"encoder.stages.\1.\2.skip.norm_act.norm.\3"),
    (r"(conv_seg\.\d\.\w+)", r"\1"),
]
_KERAS_LEAF = {
    "kernel": "conv.weight",
    "bias": "conv.bias",
    "gamma": "norm_act.norm.weight",
    "beta": "norm_act.norm.bias",
    "moving_mean": "norm_act.norm.running_mean",
    "moving_variance": "norm_act.norm.running_var",
}
_KERAS: list[tuple[str, Name]] = [
    (
        r"depth_([0-7])_(?:conv|bn)/(\w+)",
        lambda m, n: f"encoder.stages.{int(m[1]) // 2}.{int(m[1]) % 2}.{_KERAS_LEAF[m[2]]}",
    ),
    (
        r"depth_([89]|1[0-3])_(?:conv|bn)/(\w+)",
        lambda m, n: f"decoder.{(13 - int(m[1])) // 2}.convs.{int(m[1]) % 2}.{_KERAS_LEAF[m[2]]}",
    ),
    (r"conv3d_\d+/kernel", "heads.0.weight"),
    (r"conv3d_\d+/bias", "heads.0.bias"),
]
_TABLES: dict[Format, list[tuple[str, Name]]] = {
    "own": [(r"((?:encoder|decoder|heads|head|conv_seg)\..+)", r"\1")],
    "genesis": _GENESIS,
    "semantic_genesis": _GENESIS,
    "genesis_keras": _KERAS,
    "nnunet_v1": _NNUNET_V1,
    "nnunet_v2": _NNUNET_V2,
    "resnet": _RESNET,
}
# the same tensors under a second name, or training's own: said nowhere, since nothing is lost
_ALIASES = re.compile(r".*\.all_modules\..*|decoder\.encoder\..*")


def rename(state: dict[str, Tensor], name: Format) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, and the keys that have no place in any network of ours."""
    levels = [int(m[1]) for key in state if (m := re.match(r"(?:tu|decoder\.transpconvs)\.(\d+)\.", key))]
    n = max(levels, default=-1) + 1
    tensors, unknown = {}, []
    for key, value in state.items():
        for pattern, ours in _TABLES[name]:
            if match := re.fullmatch(pattern, key):
                tensors[ours(match, n) if callable(ours) else match.expand(ours)] = value
                break
        else:
            if not _ALIASES.fullmatch(key):
                unknown.append(key)
    if name == "genesis_keras":
        tensors = _from_keras(tensors)
    return tensors, unknown


def _from_keras(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kernels (d, h, w, in, out) to (out, in, d, h, w), and repetition as a transposed convolution.

    Up-sampling by repetition is the transposed convolution with kernel and stride 2 whose weight is 1
    from every channel to itself: equal outputs, and a network that learns from there.
    """
    tensors = {k: v.permute(4, 3, 0, 1, 2) if v.ndim == 5 else v for k, v in tensors.items()}
    for level in range(3):
        channels = tensors[f"encoder.stages.{level + 1}.1.conv.weight"].shape[0]
        identity = torch.eye(channels)[..., None, None, None].expand(-1, -1, 2, 2, 2)
        tensors[f"decoder.{level}.up.weight"] = identity
        tensors[f"decoder.{level}.up.bias"] = torch.zeros(channels)
    return tensors
