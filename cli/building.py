"""From settings to modules, data and trainers: what the modes of main.py are put together from."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from cases.case import list_cases
from cases.files import write_text
from cases.folder import FolderSettings
from cases.plan import Plan
from cases.regions import RegionSettings
from cases.registry import is_own
from cases.settings import Given
from cases.splits import TrainingFoldSettings, fold_cases
from data_loading.augmentation.pipeline import Augmentation, AugmentationSettings
from data_loading.classes import ClassDataModule
from data_loading.module import LoaderSettings, PatchDataModule, SegmentationDataModule, SliceSettings
from data_loading.sources.classes import read_classes
from data_loading.sources.sampling import PlaceSettings
from inference.sliding_window import SlidingWindow, WindowSettings
from inference.tta import TTASettings
from nets.build import build_network
from nets.choice import NetworkChoice
from nets.dynamic_unet import NetworkSettings
from nets.weights.matching import TransferSettings, start_from_weights
from runtime.devices import DeviceSettings, Layout, devices, global_rank, gpu_of, usable_layout
from runtime.dllogger_backend import LogSettings, ResultsSettings, RunLogger, open_log
from training.checkpoint import SaveSettings, StartSettings, find_resumable, read_checkpoint
from training.classification import ClassificationModule, ClassificationSettings
from training.compilation import CompileSettings
from training.fitting import FitSettings, LimitSettings, build_trainer, fit, training_arguments, training_callbacks
from training.learning import LearningModule
from training.losses import build_loss
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule, ValidationSettings

Cases = tuple[list[str], list[str]]  # that train, that validate


def training_plan(given: Given) -> Plan:
    """The folder's plan with the axes that training mirrors."""
    return given[AugmentationSettings].mirrored(given[FolderSettings].plan())


def training_cases(given: Given) -> Cases:
    """The fold's training cases, as many as --train_cases lets, and its validation cases."""
    folder = given[FolderSettings].folder()
    return fold_cases(folder, given[TrainingFoldSettings], seed=given[LoaderSettings].seed)


def flipped_axes(settings: TTASettings, plan: Plan) -> tuple[int, ...]:
    """The axes that test-time augmentation flips, none without --tta; says where --tta flips none either."""
    axes = settings.flips(plan)
    if settings.tta and not axes and global_rank() == 0:
        print("note: --tta changes nothing: training mirrored no axis (--tta_axes names others)", file=sys.stderr)
    return axes


def network_choice(given: Given, plan: Plan) -> NetworkChoice:
    """The network that the settings name, in a memory layout that the devices can use."""
    choice = NetworkChoice.of(given)
    return with_layout(choice, usable_layout(choice.network.layout, given[DeviceSettings], plan.dim))


def with_layout(choice: NetworkChoice, layout: Layout) -> NetworkChoice:
    """The same network in this memory layout."""
    return replace(choice, network=replace(choice.network, layout=layout))


def build_module(given: Given, plan: Plan) -> SegmentationModule:
    """A new segmentation network with everything that it needs to train."""
    regions, choice = given[RegionSettings].of(plan), network_choice(given, plan)
    return SegmentationModule(
        plan,
        build_network(plan, choice, out_channels=len(regions.names) if regions else plan.n_class),
        choice,
        windows=SlidingWindow.of(plan, given.get(WindowSettings)),
        loss=build_loss(given, regions),
        optimization=given[OptimizationSettings],
        tta_axes=flipped_axes(given.get(TTASettings), plan),
        validation=given.get(ValidationSettings),
        run_settings=given.as_json(),
    )


def build_data(given: Given, plan: Plan, cases: Cases, trainer: Trainer, **further: Any) -> SegmentationDataModule:
    """Patches to train a segmentation on, and volumes to validate it on."""
    return SegmentationDataModule(
        given[FolderSettings].folder(),
        plan,
        *cases,
        given[LoaderSettings],
        Augmentation.of(given),
        places=given[PlaceSettings],
        slices=given[SliceSettings],
        device_id=gpu_of(trainer),
        **further,
    )


def build_class_module(given: Given, plan: Plan) -> ClassificationModule:
    """A new classifier, and the table of its classes."""
    settings = given[ClassificationSettings]
    return ClassificationModule(
        plan,
        network_choice(given, plan),
        read_classes(settings.labels_csv, list_cases(given[FolderSettings].folder()), settings.kind),
        settings=settings,
        windows=SlidingWindow.of(plan, given[WindowSettings]),
        optimization=given[OptimizationSettings],
        run_settings=given.as_json(),
    )


def build_class_data(given: Given, module: ClassificationModule, trainer: Trainer) -> ClassDataModule:
    """Patches to train a classifier on, and scans to validate it on."""
    return ClassDataModule(
        given[FolderSettings].folder(),
        module.plan,
        *training_cases(given),
        module.table,
        given[LoaderSettings],
        Augmentation.of(given),
        slices=given[SliceSettings],
        device_id=gpu_of(trainer),
    )


class Training:
    """A training as every kind of it runs: where it begins, its trainer, its log.

    Args:
        given: settings of the run.
        module: what learns.
        data: the folder that it learns from, for messages.
        trusted: names of a user's own encoder, which its checkpoint may name.
    """

    def __init__(self, given: Given, module: LearningModule, data: Path) -> None:
        self.given, self.module, self.data = given, module, data
        self.results = given[LogSettings].results
        self.trusted = tuple(name for name in (given[NetworkSettings].encoder,) if is_own(name))
        self.resume = find_resumable(
            given[SaveSettings],
            given[StartSettings],
            given,
            kind=module.learns,
            plan=module.plan,
            cases=data,
            results=self.results,
            trusted=self.trusted,
        )
        if self.resume is None:
            module.new_layers = self._start_weights()
        self.logger: RunLogger = open_log(
            given[LogSettings], given.as_json(), rank=global_rank(), append=self.resume is not None
        )

    def _start_weights(self) -> frozenset[str]:
        """Fill the new network from --ckpt_path (the very network) or --pretrained (any other), if either is given.

        Returns:
            names of the parameters that took nothing of --pretrained; empty without it.
        """
        start, module = self.given[StartSettings], self.module
        if start.ckpt_path is not None:
            checkpoint = read_checkpoint(start.ckpt_path, trusted=self.trusted)
            checkpoint.check_kind(module.learns)
            checkpoint.check_plan(module.plan, self.data)
            checkpoint.fill(module.network, module.network_settings)
        elif (report := start_from_weights(module.network, self.given[TransferSettings])) is not None:
            if global_rank() == 0:
                self.results.mkdir(parents=True, exist_ok=True)
                write_text(self.results / "pretrained.txt", "\n".join(report.lines()) + "\n")
                print(report, flush=True)
            return report.new
        return frozenset()

    def trainer(self, *further: Callback) -> Trainer:
        """With log, progress bar, checkpoints and what else the settings ask for."""
        given = self.given
        callbacks = training_callbacks(given[FitSettings], given[SaveSettings], self.module, self.logger, self.results)
        return plain_trainer(
            given,
            [*callbacks, *further, *given[CompileSettings].callbacks()],
            **training_arguments(given[FitSettings], given[OptimizationSettings]),
        )

    def fit(self, trainer: Trainer, data: PatchDataModule, cases: tuple[int, int]) -> None:
        """Train to the end. ``cases``: how many train and how many validate."""
        fit(
            trainer,
            self.module,
            data,
            self.given[FitSettings],
            self.given[SaveSettings],
            results=self.results,
            batch_size=self.given[LoaderSettings].batch_size,
            cases=cases,
            resume=self.resume,
        )


def plain_trainer(given: Given, callbacks: list[Callback], **further: Any) -> Trainer:
    """The Trainer on the devices that were given; evaluation is limited by --test_batches."""
    if LimitSettings in given:
        further = {"limit_val_batches": given[LimitSettings].test_batches or 1.0} | further
    chosen = given[DeviceSettings]
    return build_trainer(devices(chosen), chosen.affinity, given[ResultsSettings].results, callbacks, **further)
