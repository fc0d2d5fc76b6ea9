"""From settings to networks, data, trainers and logs: what the commands of main.py are put together from."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.case import list_cases
from cases.plan import PLAN_FILE, Plan, PlanError
from cases.regions import brats_regions
from cases.settings import Given, Settings, setting
from cases.splits import draw_cases, split
from data_loading.classes import ClassDataModule, read_classes
from data_loading.module import LoaderSettings, PatchDataModule, SegmentationDataModule
from data_loading.sources.sampling import AugmentationSettings
from inference.sliding_window import SlidingWindow, WindowSettings
from inference.tta import TTASettings
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from nets.weights.formats import read_weights
from nets.weights.matching import load_pretrained
from runtime.affinity import bind_rank
from runtime.dllogger_backend import FILE_ONLY, RunLogger
from settings import MainSettings, as_json, preprocessed_folder
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    Kind,
    SaveSettings,
    StartSettings,
    find_resumable,
    read_checkpoint,
)
from training.classification import ClassificationModule, ClassificationSettings
from training.compilation import CompileSettings
from training.fitting import FitSettings, build_trainer, fit, training_arguments, training_callbacks
from training.learning import LearningModule
from training.losses import LOSSES, LossSettings, build_loss
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule, ValidationSettings

CLASS_SETTINGS = ("loss", "hidden")  # of a classifier, that its checkpoint decides
OTHERS_KEPT = (  # of groups that are not composed yet; those of training say it on the field
    "seed nfolds fold dim data2d_dim nvol batch_size oversampling steps_per_epoch augment mirror_axes depth min_fmap "
    "filters norm negative_slope res_block more_chn deep_supervision deep_supr_num brats amp train_batches exec_mode "
    "kind train_cases encoder shortcut dilated conv_seg method methods genesis patch_size outputs z_score cube_folds "
    "cube_val_folds exp lambda_rec lambda_cls patterns classes"
).split()
G = TypeVar("G", bound=Settings)


def group(kind: type[G], settings: MainSettings) -> G:
    """A group of settings out of all of them."""
    return kind(**{entry.name: getattr(settings, entry.name) for entry in fields(kind)})


def run_groups(settings: MainSettings) -> Given:
    """The groups that a resumed run must keep."""
    kinds: list[type[Settings]] = [OptimizationSettings, FitSettings]
    if settings.kind == "classification":
        kinds.append(ClassificationSettings)
    elif settings.exec_mode != "pretrain":
        kinds += [LossSettings, *LOSSES.settings_of(settings.loss)]
    others = make_dataclass(
        "Others",
        [
            (entry.name, object, setting(entry.default, flags=entry.metadata["flags"]))
            for entry in fields(MainSettings)
            if entry.name in OTHERS_KEPT
        ],
        bases=(Settings,),
        frozen=True,
        kw_only=True,
    )
    return Given((*(group(kind, settings) for kind in kinds), group(others, settings)))


class DeviceError(ValueError):
    """Devices that this machine does not have."""


def checkpoint_of(settings: MainSettings, kind: Kind = "segmentation") -> Checkpoint:
    if settings.ckpt_path is None:
        raise CheckpointError(f"--exec_mode {settings.exec_mode} needs --ckpt_path")
    checkpoint = read_checkpoint(settings.ckpt_path)
    checkpoint.check_kind(kind)
    return checkpoint


def load_plan(settings: MainSettings) -> Plan:
    """The preprocessed folder's plan.

    Raises:
        PlanError: without one; where --data names the folder above, the message names the folder itself.
    """
    folder = settings.folder
    if settings.task is not None and folder == settings.data and not (folder / PLAN_FILE).is_file():
        meant = preprocessed_folder(folder, settings.task, settings.dim, below=True)
        give = f"give --data {meant}" if (meant / PLAN_FILE).is_file() else "run preprocess.py first"
        raise PlanError(
            f"{folder / PLAN_FILE} does not exist: --data names the preprocessed folder itself, and --task plays no "
            f"part in finding it once --data is given; {give}"
        )
    return Plan.load(folder)


def training_plan(settings: MainSettings) -> Plan:
    """The folder's plan with the axes that training mirrors."""
    plan = load_plan(settings)
    return plan if settings.mirror_axes is None else plan.with_(mirror_axes=settings.mirror_axes)


def fold_cases(settings: MainSettings) -> tuple[list[str], list[str]]:
    """The fold's training cases, as many as --train_cases lets, and its validation cases."""
    train_cases, val_cases = split(list_cases(settings.folder), settings.nfolds, settings.fold)
    if settings.train_cases is not None:
        train_cases = draw_cases(train_cases, settings.train_cases, settings.seed)
    return train_cases, val_cases


def start_weights(settings: MainSettings, module: LearningModule, plan: Plan, resume: Path | None) -> frozenset[str]:
    """Fill a new network from --ckpt_path (the very network) or --pretrained (any other), if either is given.

    Returns:
        names of the parameters that took nothing of --pretrained; empty without it.
    """
    if resume is not None:
        return frozenset()
    if settings.ckpt_path is not None:
        start = read_checkpoint(settings.ckpt_path)
        start.check_kind(module.learns)
        start.check_plan(plan, settings.folder)
        start.fill(module.network, module.network_settings)
    elif settings.pretrained is not None:
        report = load_pretrained(
            module.network,
            settings.pretrained,
            transfer=settings.transfer,
            min_coverage=settings.min_coverage / 100,
            weights_axes=settings.weights_axes,
        )
        if global_rank() == 0:
            settings.results.mkdir(parents=True, exist_ok=True)
            (settings.results / "pretrained.txt").write_text("\n".join(report.lines()) + "\n", encoding="utf-8")
            print(report, flush=True)
        return report.new
    return frozenset()


def with_encoder(settings: MainSettings) -> MainSettings:
    """With --encoder, where it is not given: the ResNet of --pretrained, its shortcut with it, or unet.

    Raises:
        WeightsError: for a file that cannot be read.
    """
    if settings.encoder is not None:
        return settings
    found = read_weights(settings.pretrained).resnet if settings.pretrained is not None else None
    if found is None:
        return replace(settings, encoder="unet")
    depth, shortcut = found
    return replace(settings, encoder=f"resnet{depth}", shortcut=settings.shortcut or shortcut)


def resumable(settings: MainSettings, plan: Plan, kind: Kind) -> Path | None:
    """The checkpoint that --resume_training continues from; None for a new run, and for a benchmark."""
    if settings.benchmark and not settings.resume_training:
        return None
    return find_resumable(
        group(SaveSettings, settings),
        group(StartSettings, settings),
        run_groups(settings),
        kind=kind,
        plan=plan,
        cases=settings.cubes or settings.folder,
        results=settings.results,
    )


def network_of(settings: MainSettings) -> NetworkSettings:
    return NetworkSettings(
        depth=settings.depth,
        min_fmap=settings.min_fmap,
        filters=settings.filters,
        norm="instance" if settings.norm == "instance_nvfuser" else settings.norm,
        negative_slope=settings.negative_slope,
        res_block=settings.res_block,
        more_chn=settings.more_chn,
        deep_supervision=settings.deep_supervision,
        deep_supr_num=max(settings.deep_supr_num, 1),
        channels_last=settings.layout == "NDHWC",
        encoder=settings.encoder or "unet",
        shortcut=settings.shortcut,
        dilated=settings.dilated,
        checkpoint_activations=settings.checkpoint_activations,
        conv_seg=settings.conv_seg,
    )


def loader_of(settings: MainSettings) -> LoaderSettings:
    augmentation = AugmentationSettings()
    if settings.augment == "none":
        augmentation = replace(AugmentationSettings.none(), mirror=augmentation.mirror)
    return LoaderSettings(
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        oversampling=settings.oversampling,
        seed=settings.seed,
        steps_per_epoch=settings.train_batches or settings.steps_per_epoch,
        augmentation=augmentation,
        data2d_dim=settings.data2d_dim,
        nvol=settings.nvol,
        constant_batch=settings.constant_batch,
    )


def flipped_axes(settings: MainSettings, plan: Plan) -> tuple[int, ...]:
    """The axes that test-time augmentation flips, none without --tta; says where --tta flips none either."""
    axes = group(TTASettings, settings).flips(plan)
    if settings.tta and not axes and global_rank() == 0:
        print("note: --tta changes nothing: training mirrored no axis (--tta_axes names others)", file=sys.stderr)
    return axes


def build_module(plan: Plan, settings: MainSettings, checkpoint: Checkpoint | None = None) -> SegmentationModule:
    """A new network, or the one that a checkpoint holds, with everything it needs to train and predict."""
    brats = settings.brats if checkpoint is None else checkpoint.settings["brats"]
    regions = brats_regions(plan.labels) if brats else None
    if checkpoint is None:
        network_settings = network_of(settings)
        network = build_network(plan, network_settings, out_channels=len(regions.names) if regions else plan.n_class)
    else:
        network_settings, network = checkpoint.network, checkpoint.build()
    return SegmentationModule(
        plan,
        network,
        network_settings,
        windows=SlidingWindow.of(plan, group(WindowSettings, settings)),
        loss=build_loss(
            Given((group(LossSettings, settings), *(group(k, settings) for k in LOSSES.settings_of(settings.loss)))),
            regions,
        ),
        optimization=group(OptimizationSettings, settings),
        tta_axes=flipped_axes(settings, plan),
        validation=group(ValidationSettings, settings),
        run_settings=as_json(settings),
    )


def build_class_module(
    plan: Plan, settings: MainSettings, checkpoint: Checkpoint | None = None
) -> ClassificationModule:
    """A new classifier, or the one that a checkpoint holds."""
    used = settings if checkpoint is None else replace(settings, **{k: checkpoint.settings[k] for k in CLASS_SETTINGS})
    classification = group(ClassificationSettings, used)
    table = read_classes(classification.labels_csv, list_cases(settings.folder), classification.kind)
    module = ClassificationModule(
        plan,
        network_of(settings) if checkpoint is None else checkpoint.network,
        table,
        settings=classification,
        windows=SlidingWindow.of(plan, group(WindowSettings, settings)),
        optimization=group(OptimizationSettings, settings),
        run_settings=as_json(settings),
    )
    if checkpoint is not None:
        checkpoint.check_outputs(len(table.names), classification.labels_csv)
        module.network.load_state_dict(checkpoint.weights)
    return module


def trainer_of(settings: MainSettings, callbacks: list[Callback], **further: Any) -> Trainer:
    """The Trainer of training and evaluation, on the devices that the settings name."""
    return build_trainer(devices(settings), settings.affinity, settings.results, callbacks, **further)


def training_of(settings: MainSettings, module: LearningModule, logger: RunLogger, *more: Callback) -> Trainer:
    """The Trainer of a training, with what accompanies one."""
    fitting = group(FitSettings, settings)
    callbacks = training_callbacks(fitting, group(SaveSettings, settings), module, logger, settings.results)
    callbacks += [*more, *group(CompileSettings, settings).callbacks()]
    further = training_arguments(fitting, group(OptimizationSettings, settings))
    return trainer_of(settings, callbacks, limit_val_batches=settings.test_batches or 1.0, **further)


def fit_with(
    settings: MainSettings,
    trainer: Trainer,
    module: LearningModule,
    data: PatchDataModule,
    cases: tuple[int, int],
    resume: Path | None,
) -> None:
    fit(
        trainer,
        module,
        data,
        group(FitSettings, settings),
        group(SaveSettings, settings),
        results=settings.results,
        batch_size=settings.batch_size,
        cases=cases,
        resume=resume,
    )


def build_fabric(settings: MainSettings) -> Fabric:
    """Devices, ranks and precision for prediction; all ranks run."""
    fabric = Fabric(**devices(settings))
    fabric.launch()
    bind_rank(settings.affinity, fabric, settings.nodes)
    return fabric


def devices(settings: MainSettings) -> dict[str, Any]:
    """What Trainer and Fabric both take: device kind and number, how ranks talk, precision."""
    gpus = min(torch.cuda.device_count(), 1) if settings.gpus is None else settings.gpus
    if gpus > torch.cuda.device_count():
        raise DeviceError(f"--gpus {gpus}, but this machine has {torch.cuda.device_count()}: --gpus 0 runs on the CPU")
    ranks = gpus or settings.cpu_ranks
    bf16 = not gpus or torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "accelerator": "gpu" if gpus else "cpu",
        "devices": ranks,
        "num_nodes": settings.nodes,
        "strategy": "ddp" if ranks * settings.nodes > 1 else "auto",
        "precision": ("bf16-mixed" if bf16 else "16-mixed") if settings.amp else "32-true",
    }


def global_rank() -> int:
    """Of this process, as far as its launcher told: the first process of a further node knows the node's number."""
    return getattr(rank_zero_only, "rank", 0) or int(os.environ.get("NODE_RANK", 0))


def gpu_of(trainer: Trainer) -> int | None:
    """The GPU that this rank's batches are made on; None for the CPU."""
    return trainer.local_rank if trainer.strategy.root_device.type == "cuda" else None


def data_of(
    settings: MainSettings, plan: Plan, train_cases: list[str], val_cases: list[str], trainer: Trainer
) -> SegmentationDataModule:
    return SegmentationDataModule(
        folder=settings.folder,
        plan=plan,
        train_cases=train_cases,
        val_cases=val_cases,
        settings=loader_of(settings),
        device_id=gpu_of(trainer),
    )


def class_data_of(settings: MainSettings, module: ClassificationModule, trainer: Trainer) -> ClassDataModule:
    return ClassDataModule(
        settings.folder,
        module.plan,
        *fold_cases(settings),
        module.table,
        loader_of(settings),
        device_id=gpu_of(trainer),
    )


def open_log(settings: MainSettings, *, append: bool = False) -> RunLogger:
    """The DLLogger file with this run's parameters, which ``params.json`` holds too."""
    rank = global_rank()
    logger = RunLogger(settings.results / (settings.logname or "logs.json"), rank=rank, append=append)
    if rank == 0:
        parameters = as_json(settings)
        (settings.results / "params.json").write_text(json.dumps(parameters, indent=1) + "\n", encoding="utf-8")
        logger.log(step="PARAMETER", data=parameters, verbosity=FILE_ONLY)
    return logger
