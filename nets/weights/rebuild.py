"""The network that a checkpoint was saved from, rebuilt from the checkpoint alone."""

from __future__ import annotations

from torch import nn

from nets.weights.files import WeightsError
from nets.weights.formats import FORMATS
from nets.weights.matching import load_pretrained
from nets.weights.reading import Weights


def rebuild_network(weights: Weights) -> nn.Module:
    """A checkpoint's own network with all of its weights, in evaluation mode.

    MedicalNet's is the dilated segmentation network, nnU-Net's a :class:`nets.dynamic_unet.DynamicUNet` with every
    head, the Keras twin's a :class:`nets.encoders.genesis.GenesisUNet` with moving statistics.

    Raises:
        WeightsError: where the file holds no whole network of ours, such as a ResNet without a head.
    """
    net = FORMATS.get(weights.format).blank(weights)
    report = load_pretrained(net, weights, transfer="all", min_coverage=1.0)
    missing = [entry.name for entry in report.entries if entry.action == "left"]
    if missing:
        raise WeightsError(f"{weights.path} ({weights.title}) is no whole network: {', '.join(missing[:3])} is missing")
    return net.eval()
