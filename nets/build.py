"""From a plan and settings to a network."""

from __future__ import annotations

from cases.plan import Plan
from nets.blocks import CHANNELS_LAST
from nets.dynamic_unet import DynamicUNet, NetworkSettings, build_unet, check_sides
from nets.encoders.genesis import GenesisUNet
from nets.encoders.resnet import MedicalNet
from nets.encoders.unet import Encoder
from nets.heads import ClassificationHead, Classifier, TwoHeaded

Network = DynamicUNet | GenesisUNet | MedicalNet


def build_network(plan: Plan, settings: NetworkSettings, *, out_channels: int | None = None) -> Network:
    """Segmentation or restoration; ``out_channels`` defaults to the plan's classes.

    Raises:
        PlanError, NetworkError: where plan and settings fit no network.
    """
    outputs = plan.n_class if out_channels is None else out_channels
    net: Network
    if settings.conv_seg:
        net = MedicalNet(
            settings.resnet_depth,
            plan.in_channels,
            outputs,
            dim=plan.dim,
            shortcut=settings.shortcut,
            checkpoint_activations=settings.checkpoint_activations,
        )
    elif settings.encoder == "genesis":
        net = GenesisUNet(plan.in_channels, outputs, dim=plan.dim)
        check_sides(plan.patch_size, net.total_stride)
    else:
        return build_unet(plan, settings, out_channels=outputs)
    return net.to(memory_format=CHANNELS_LAST[plan.dim]) if settings.channels_last else net  # type: ignore[call-overload]


def build_encoder(plan: Plan, settings: NetworkSettings) -> Encoder:
    """The encoder of :func:`build_network` alone."""
    return build_network(plan, settings, out_channels=1).encoder


def build_classifier(plan: Plan, settings: NetworkSettings, n_class: int, *, hidden: int | None = 1024) -> Classifier:
    """Encoder, global average, and a dense layer of ``hidden`` units (None: one linear layer)."""
    return Classifier(build_encoder(plan, settings), n_class, hidden=hidden)


def build_two_headed(plan: Plan, settings: NetworkSettings, n_class: int, *, hidden: int = 1024) -> TwoHeaded:
    """Restoration of every input channel and classification, as Semantic Genesis trains them."""
    net = build_network(plan, settings, out_channels=plan.in_channels)
    head = ClassificationHead(net.encoder.channels[-1], n_class, dim=plan.dim, hidden=hidden, convolution=True)
    return TwoHeaded(net, head)
