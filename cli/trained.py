"""Trained networks: the checkpoint that a command names, and how its answers become labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from cases.case import list_cases
from cases.folder import FolderSettings
from cases.plan import Plan
from cases.regions import Regions, RegionSettings
from cases.settings import Given, Settings, setting
from cli.building import flipped_axes, with_layout
from data_loading.sources.classes import read_classes
from inference.components import ComponentSettings
from inference.medicalnet import PublishedNetwork, read_published
from inference.predict import PredictSettings
from inference.sliding_window import Predictor, SlidingWindow, WindowSettings
from inference.tta import TTASettings
from runtime.devices import DeviceSettings, Layout, half_on_gpu, usable_layout
from runtime.hardware import Hardware
from training.checkpoint import Checkpoint, CheckpointError, ForeignCheckpointError, Kind, read_checkpoint
from training.classification import ClassificationModule, ClassificationSettings, ClassTableSettings
from training.losses import build_loss
from training.segmentation import SegmentationModule, ValidationSettings

Source = Checkpoint | PublishedNetwork


@dataclass(frozen=True, kw_only=True)
class TrainedSettings(Settings):
    """The trained network."""

    ckpt_path: Path = setting(help="checkpoint of a trained network", kept=False)
    layout: Literal["NCDHW", "NDHWC"] | None = setting(
        None,
        "memory layout of activations, NDHWC is channels-last; None: as it was trained, but NDHWC in 3D with --amp "
        "on a GPU",
        kept=False,
    )
    trust: tuple[str, ...] = setting(
        (),
        "your own encoder (file.py:Class) that the checkpoint names: its code is run only where you name it here",
        kept=False,
    )


@dataclass(frozen=True, kw_only=True)
class PublishedSettings(Settings):
    """MedicalNet's published checkpoints, which do not tell the size at which they saw scans."""

    patch_size: tuple[int, ...] | None = setting(
        None, "the size (D, H, W) that scans are resized to; None: 56 448 448, as published", kept=False
    )

    def faults(self) -> list[str]:
        sides = self.patch_size
        return [f"--patch_size {sides} has not the 3 sides D H W"] if sides is not None and len(sides) != 3 else []


def own_checkpoint(given: Given, kind: Kind | None = "segmentation") -> Checkpoint:
    """The checkpoint of --ckpt_path. Raises CheckpointError for one that is not ours, or for something else.

    ``kind`` None: of a network that was made for anything.
    """
    settings = given[TrainedSettings]
    checkpoint = read_checkpoint(settings.ckpt_path, trusted=settings.trust)
    if kind is not None:
        checkpoint.check_kind(kind)
    layout = layout_of(given, checkpoint.network.network.layout, checkpoint.plan.dim)
    return replace(checkpoint, network=with_layout(checkpoint.network, layout))


def layout_of(given: Given, trained: Layout, dim: int) -> Layout:
    """That of --layout, else what mixed precision on a GPU wants, else as the network was trained."""
    devices = given[DeviceSettings]
    suited: Layout = "NDHWC" if dim == 3 and half_on_gpu(devices) else trained
    return usable_layout(given[TrainedSettings].layout or suited, devices, dim)


def any_checkpoint(given: Given) -> Source:
    """The segmentation network that --ckpt_path names: our own, or a published one of MedicalNet.

    Raises:
        CheckpointError, WeightsError: where it is neither.
    """
    sides = given[PublishedSettings].patch_size
    try:
        checkpoint = own_checkpoint(given)
    except ForeignCheckpointError:
        last = layout_of(given, "NCDHW", 3) == "NDHWC"
        return read_published(given[TrainedSettings].ckpt_path, sides, channels_last=last)
    if sides is not None:
        raise CheckpointError(f"{checkpoint.path} has its own patch size: leave --patch_size out")
    return checkpoint


def regions_of(checkpoint: Checkpoint) -> Regions | None:
    """The regions that a network answers instead of classes."""
    ran = checkpoint.settings
    return RegionSettings(brats=bool(ran.get("brats")), regions=tuple(ran.get("regions") or ())).of(checkpoint.plan)


def trained_module(given: Given, checkpoint: Checkpoint) -> SegmentationModule:
    """The network of a checkpoint with what evaluates it."""
    plan = checkpoint.plan
    return SegmentationModule(
        plan,
        checkpoint.build(),
        checkpoint.network,
        windows=SlidingWindow.of(plan, given[WindowSettings]),
        loss=build_loss(given, regions_of(checkpoint)),
        tta_axes=flipped_axes(given[TTASettings], plan),
        validation=given[ValidationSettings],
    )


def trained_class_module(given: Given, checkpoint: Checkpoint) -> ClassificationModule:
    """The classifier of a checkpoint, with the table that tells what its scans are."""
    stored = {name: checkpoint.settings[name] for name in ("loss", "hidden")}
    settings = ClassificationSettings(labels_csv=given[ClassTableSettings].labels_csv, **stored)
    table = read_classes(settings.labels_csv, list_cases(given[FolderSettings].folder()), settings.kind)
    checkpoint.check_outputs(len(table.names), settings.labels_csv)
    module = ClassificationModule(
        checkpoint.plan,
        checkpoint.network,
        table,
        settings=settings,
        windows=SlidingWindow.of(checkpoint.plan, given[WindowSettings]),
    )
    module.network.load_state_dict(checkpoint.weights)
    return module


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A network on its device, and how its answers become labels."""

    plan: Plan
    predictor: Predictor
    wanted: PredictSettings
    hardware: Hardware

    @property
    def regions(self) -> Regions | None:
        return self.wanted.regions


def build_segmenter(given: Given, source: Source, fabric: Fabric, *, keep_probabilities: bool) -> Segmenter:
    """Put the network on the device; a published one sees whole scans and answers at a quarter of their sides."""
    network: torch.nn.Module
    predictor: Predictor
    if isinstance(source, PublishedNetwork):
        windows, regions, channels_last = None, None, source.channels_last
        network, predictor = source.network, source.logits
    else:
        windows, regions = SlidingWindow.of(source.plan, given[WindowSettings]), regions_of(source)
        channels_last = source.network.network.layout == "NDHWC"
        network = source.build()
        predictor = partial(_first_head, network)
    fabric.to_device(network).eval()
    post = given.get(ComponentSettings).of(source.plan.labels, regions)
    wanted = PredictSettings(
        windows=windows,
        flip_axes=flipped_axes(given[TTASettings], source.plan),
        regions=regions,
        keep_probabilities=keep_probabilities,
        label_values=source.plan.values,
        post=post,
        autocast=fabric.autocast,
    )
    hardware = Hardware(
        device=fabric.device,
        precision=str(fabric.strategy.precision.precision),
        channels_last=channels_last,
    )
    return Segmenter(plan=source.plan, predictor=predictor, wanted=wanted, hardware=hardware)


def _first_head(network: torch.nn.Module, windows: Tensor) -> Tensor:
    logits: Tensor = network(windows)[0]
    return logits
