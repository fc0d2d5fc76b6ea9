"""From a plan and settings to a network."""

from __future__ import annotations

import inspect
from typing import TypeVar

from torch import nn

from cases.plan import Plan, Topology, topology
from nets.blocks import CHANNELS_LAST, NetworkError, use_own_conv
from nets.choice import NetworkChoice, as_choice
from nets.dynamic_unet import DynamicUNet, NetworkSettings, check_sides
from nets.encoders.base import Encoder, whole_network
from nets.heads import ClassificationHead, Classifier, TwoHeaded
from nets.network import Network

N = TypeVar("N", bound=nn.Module)
Chosen = NetworkChoice | NetworkSettings  # the latter: with the defaults of its encoder's own settings


def build_network(plan: Plan, settings: Chosen, *, out_channels: int | None = None) -> Network:
    """Segmentation or restoration; ``out_channels`` defaults to the plan's classes.

    Raises:
        PlanError: for too few filters.
        NetworkError: for a patch that the network cannot halve as it must, and for an own encoder that is none.
    """
    choice = as_choice(settings)
    outputs = plan.n_class if out_channels is None else out_channels
    stages = plan_topology(plan, choice.network)
    whole = whole_network(choice.entry, choice.network)
    if whole is None and stages.stages < 2:
        raise NetworkError(
            f"patch {plan.patch_size} cannot be halved down to feature maps of {choice.network.min_fmap}: "
            "take a larger patch with even sides, or lower --min_fmap"
        )
    encoder = _build(choice, plan.in_channels, stages)
    net: Network = _unet(encoder, stages, outputs, choice) if whole is None else whole(encoder, outputs)
    use_own_conv(net, choice.network.own_conv)
    if whole is None:
        return net
    check_sides(plan.patch_size, net.total_stride)
    return laid_out(net, choice, plan.dim)


def laid_out(network: N, choice: NetworkChoice, dim: int) -> N:
    """The network, its weights in the memory layout that was chosen: convolutions answer in that of their weights."""
    if choice.network.layout == "NDHWC":
        network.to(memory_format=CHANNELS_LAST[dim])  # type: ignore[call-overload]
    return network


def _build(choice: NetworkChoice, in_channels: int, stages: Topology) -> Encoder:
    """The encoder, once it is sure that an own one keeps to what nets/encoders/base.py asks for."""
    build, arguments = choice.entry.build, (in_channels, stages, choice.network, *choice.own)
    try:
        inspect.signature(build).bind(*arguments)
    except TypeError as error:
        wanted = ", ".join(["in_channels", "stages", "network", *(type(group).__name__ for group in choice.own)])
        raise NetworkError(f"the encoder {choice.encoder} is called as build({wanted}): {error}") from error
    encoder = build(*arguments)
    missing = [name for name in ("in_channels", "channels", "strides") if not hasattr(encoder, name)]
    if missing:
        raise NetworkError(f"the encoder {choice.encoder} has no {', '.join(missing)}; see nets/encoders/base.py")
    if len(encoder.channels) != len(encoder.strides):
        raise NetworkError(
            f"the encoder {choice.encoder} has {len(encoder.channels)} channels and {len(encoder.strides)} strides: "
            "one of each for every stage"
        )
    return encoder


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


def _unet(encoder: Encoder, stages: Topology, out_channels: int, choice: NetworkChoice) -> DynamicUNet:
    """The decoder has the widths of the plain network, since a ResNet's own, up to 2048, would outweigh it.

    An encoder of more stages than the plan has goes on with the plan's last width, and kernels of 3.
    """
    more = max(0, len(encoder.strides) - stages.stages)
    return DynamicUNet(
        encoder,
        out_channels,
        decoder_channels=(*stages.filters, *(stages.filters[-1],) * more),
        decoder_kernels=(*stages.kernels, *((3,) * len(stages.strides[0]),) * more),
        settings=choice.network,
        bias=choice.bias,
    )


def build_encoder(plan: Plan, settings: Chosen) -> Encoder:
    """The encoder of :func:`build_network` alone."""
    encoder: Encoder = build_network(plan, settings, out_channels=1).encoder
    return encoder


def build_classifier(plan: Plan, settings: Chosen, n_class: int, *, hidden: int | None = 1024) -> Classifier:
    """Encoder, global average, and a dense layer of ``hidden`` units (None: one linear layer)."""
    return Classifier(build_encoder(plan, settings), n_class, hidden=hidden)


def build_two_headed(plan: Plan, settings: Chosen, n_class: int, *, hidden: int = 1024) -> TwoHeaded:
    """Restoration of every input channel and classification, as Semantic Genesis trains them."""
    net = build_network(plan, settings, out_channels=plan.in_channels)
    head = ClassificationHead(net.encoder.channels[-1], n_class, dim=plan.dim, hidden=hidden, convolution=True)
    return laid_out(TwoHeaded(net, head), as_choice(settings), plan.dim)
