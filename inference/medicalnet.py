"""MedicalNet's published segmentation network, from a checkpoint that somebody else fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cases.plan import Normalization, Plan
from data_preprocessing.recipes.medicalnet import INPUT_SIZE
from nets.medicalnet import MedicalNet
from nets.weights.files import WeightsError
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network


@dataclass(frozen=True, kw_only=True)
class PublishedNetwork:
    """The network with its weights, its memory layout, and the plan by which scans are prepared for it."""

    path: Path
    plan: Plan
    network: MedicalNet
    channels_last: bool = False

    def logits(self, scans_ncdhw: Tensor) -> Tensor:
        """At a quarter of each side, as the network computes them."""
        return self.network.decode(self.network.skips(scans_ncdhw))[0]


def read_published(
    path: Path, input_size: Sequence[int] | None = None, *, channels_last: bool = False
) -> PublishedNetwork:
    """Read a checkpoint in MedicalNet's layout; depth, shortcut, channels and classes are read off it.

    Args:
        path: of the file; nothing in it is run.
        input_size: (D, H, W) that scans are resized to; None: as published.
        channels_last: the memory layout of activations.

    Raises:
        WeightsError: for a file that is no checkpoint, of another network, or without ``conv_seg``.
    """
    weights = read_weights(path)
    if weights.format != "resnet":
        raise WeightsError(f"{path} holds {weights.title}, not a segmentation network in MedicalNet's layout")
    network = rebuild_network(weights)
    assert isinstance(network, MedicalNet)  # what a ResNet with a head is built as
    if network.dim != 3:
        raise WeightsError(f"{path} holds a network for {network.dim}D images, scans have three dimensions")
    if channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    channels = network.encoder.in_channels
    plan = Plan(
        name=Path(path).stem,
        dataset="MedicalNet",
        dim=3,
        channels=tuple(f"channel {index}" for index in range(channels)),
        labels=("background", *(f"class {value}" for value in range(1, network.out_channels))),
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=tuple(input_size or INPUT_SIZE),
        normalization=(Normalization(scheme="zscore"),) * channels,
        recipe="medicalnet",
    )
    return PublishedNetwork(path=Path(path), plan=plan, network=network, channels_last=channels_last)
