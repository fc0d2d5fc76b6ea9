"""Models Genesis in Keras: HDF5 files, kernels (d, h, w, in, out), and repetition in the place of up-convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from nets.encoders.genesis import KERAS_EPS, GenesisEncoder, GenesisUNet
from nets.weights.files import WeightsError
from nets.weights.formats.base import Rules, WeightFormat
from nets.weights.reading import Weights

LEAF = {
    "kernel": "conv.weight",
    "bias": "conv.bias",
    "gamma": "norm_act.norm.weight",
    "beta": "norm_act.norm.bias",
    "moving_mean": "norm_act.norm.running_mean",
    "moving_variance": "norm_act.norm.running_var",
}
RULES: Rules = [
    (
        r"depth_([0-7])_(?:conv|bn)/(\w+)",
        lambda m: f"encoder.stages.{int(m[1]) // 2}.{int(m[1]) % 2}.{LEAF[m[2]]}",
    ),
    (
        r"depth_([89]|1[0-3])_(?:conv|bn)/(\w+)",
        lambda m: f"decoder.{(13 - int(m[1])) // 2}.convs.{int(m[1]) % 2}.{LEAF[m[2]]}",
    ),
    (r"conv3d_\d+/kernel", "heads.0.weight"),
    (r"conv3d_\d+/bias", "heads.0.bias"),
]


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Datasets ``<layer>/<layer>/<name>:0`` as ``<layer>/<name>``. Raises WeightsError."""
    state: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.endswith(":0"):
            parts = name.removesuffix(":0").split("/")
            state[f"{parts[-2]}/{parts[-1]}"] = torch.from_numpy(np.asarray(item[()], dtype=np.float32))

    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            root.visititems(visit)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is a damaged HDF5 file ({error})") from error
    if "depth_0_conv/kernel" not in state:
        raise WeightsError(f"{path} is an HDF5 file, but not Models Genesis': it has no depth_0_conv/kernel")
    return state


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


def _blank(weights: Weights) -> nn.Module:
    """With moving statistics, which the PyTorch network does not use."""
    channels = weights.shape("encoder.stages.0.0.conv.weight")[1]
    encoder = GenesisEncoder(channels, batch_statistics=False, eps=KERAS_EPS)
    return GenesisUNet(encoder, weights.shape("heads.0.weight")[0])


KERAS = WeightFormat(
    title="Models Genesis (Keras)",
    recognises=lambda keys: "depth_0_conv/kernel" in keys,
    rules=lambda keys: RULES,
    blank=_blank,
    xyz=True,
    encoder="--encoder genesis",
    magic=b"\x89HDF\r\n\x1a\n",
    read=_read_keras,
    finish=_from_keras,
)
