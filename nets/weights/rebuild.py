"""The network that a checkpoint was saved from, rebuilt from the checkpoint alone."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from cases.plan import Plan, PlanError, Topology
from nets.build import build_classifier, build_network
from nets.dynamic_unet import DynamicUNet, NetworkSettings
from nets.encoders.genesis import KERAS_EPS, GenesisUNet, semantic_genesis_net
from nets.encoders.resnet import MedicalNet
from nets.encoders.unet import UNetEncoder
from nets.heads import ClassificationHead, TwoHeaded
from nets.weights.formats import Weights, WeightsError
from nets.weights.matching import load_pretrained


def network_of(weights: Weights) -> nn.Module:
    """A checkpoint's own network with all of its weights, in evaluation mode.

    MedicalNet's is the dilated segmentation network, nnU-Net's a :class:`DynamicUNet` with every head,
    the Keras twin's a :class:`GenesisUNet` with moving statistics.

    Raises:
        WeightsError: where the file holds no whole network of ours, such as a ResNet without a head.
    """
    net = _blank(weights)
    report = load_pretrained(net, weights, transfer="all", min_coverage=1.0)
    missing = [entry.name for entry in report.entries if entry.action == "left"]
    if missing:
        raise WeightsError(f"{weights.path} ({weights.title}) is no whole network: {', '.join(missing[:3])} is missing")
    return net.eval()


def _blank(weights: Weights) -> nn.Module:
    if weights.format == "own":
        return _own(weights)
    if weights.format in ("nnunet_v1", "nnunet_v2"):
        return _nnunet(weights)
    channels = _shape(weights, "encoder.stages.0.0.conv.weight")[1]
    if weights.format == "resnet":
        kind = weights.resnet
        if kind is None:
            raise WeightsError(f"{weights.path} is laid out like a ResNet, but its stem is not 7 voxels wide")
        head = _shape(weights, "conv_seg.6.weight")
        return MedicalNet(kind[0], channels, head[0], dim=len(head) - 2, shortcut=kind[1])
    if weights.format == "semantic_genesis":
        return semantic_genesis_net(channels, _shape(weights, "head.linear.weight")[0])
    out_channels = _shape(weights, "heads.0.weight")[0]
    if weights.format == "genesis_keras":
        return GenesisUNet(channels, out_channels, batch_statistics=False, eps=KERAS_EPS)
    return GenesisUNet(channels, out_channels)


def _shape(weights: Weights, name: str) -> tuple[int, ...]:
    if name not in weights.tensors:
        raise WeightsError(
            f"{weights.path} ({weights.title}) is no whole network, for {name} is missing: "
            "it can start a training (--pretrained), not predict"
        )
    return tuple(weights.tensors[name].shape)


def _own(weights: Weights) -> nn.Module:
    plan, settings = plan_and_settings(weights)
    last = "conv_seg.6.weight" if settings.conv_seg else "heads.0.weight"
    if last not in weights.tensors:
        n_class, hidden = _shape(weights, "head.linear.weight")
        return build_classifier(plan, settings, n_class, hidden=_hidden(weights.tensors, hidden))
    net = build_network(plan, settings, out_channels=_shape(weights, last)[0])
    if "head.linear.weight" not in weights.tensors:
        return net
    n_class, hidden = _shape(weights, "head.linear.weight")
    convolution = "head.conv.conv.weight" in weights.tensors
    head = ClassificationHead(
        net.encoder.channels[-1],
        n_class,
        dim=plan.dim,
        hidden=hidden if convolution else _hidden(weights.tensors, hidden),
        convolution=convolution,
    )
    return TwoHeaded(net, head)


def _hidden(tensors: dict[str, Tensor], width: int) -> int | None:
    return width if "head.dense.0.weight" in tensors else None


def plan_and_settings(weights: Weights) -> tuple[Plan, NetworkSettings]:
    """The plan and the settings beside the weights of an own checkpoint. Raises WeightsError."""
    values: Any = weights.content.get("network_settings")
    if weights.format != "own" or not isinstance(values, dict):
        raise WeightsError(f"{weights.path} ({weights.title}) holds no plan: give a .ckpt file that training wrote")
    try:
        return Plan.from_json(weights.content["plan"]), NetworkSettings(**values)
    except (PlanError, TypeError, ValueError) as error:
        raise WeightsError(f"{weights.path} is of another version of this program: {error}") from error


def _nnunet(weights: Weights) -> DynamicUNet:
    """Stages, strides and kernels are read off the shapes of the weights."""
    tensors = weights.tensors
    if any(re.fullmatch(r"encoder\.stages\.\d+\.\d+\.convs\..*|encoder\.stages\.\d+\.[2-9]\..*", n) for n in tensors):
        raise WeightsError(
            f"{weights.path} ({weights.title}) has another encoder than two convolutions a stage: "
            "it can start a training (--pretrained, with --res_block for a residual one), not predict"
        )
    levels = sum(re.fullmatch(r"decoder\.\d+\.up\.weight", name) is not None for name in tensors)
    kernels = [_shape(weights, f"encoder.stages.{stage}.0.conv.weight") for stage in range(levels + 1)]
    ups = [_shape(weights, f"decoder.{level}.up.weight")[2:] for level in range(levels)]
    stages = Topology(
        strides=((1,) * len(ups[0]), *ups),
        kernels=tuple(kernel[2:] for kernel in kernels),
        filters=tuple(kernel[0] for kernel in kernels),
    )
    settings = NetworkSettings(
        depth=levels,
        deep_supervision=levels > 1,
        deep_supr_num=max(levels - 1, 1),
        bias="decoder.0.up.bias" in tensors,
    )
    return DynamicUNet(
        UNetEncoder(kernels[0][1], stages),
        _shape(weights, "heads.0.weight")[0],
        decoder_channels=stages.filters,
        decoder_kernels=[_shape(weights, f"decoder.{level}.convs.0.conv.weight")[2:] for level in range(levels)],
        settings=settings,
    )
