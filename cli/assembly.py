"""From settings to networks, data, trainers and logs: what the commands of main.py are put together from."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.case import list_cases
from cases.plan import PLAN_FILE, Plan, PlanError
from cases.regions import brats_regions
from cases.splits import draw_cases, split
from data_loading.classes import ClassDataModule, read_classes
from data_loading.module import LoaderSettings, SegmentationDataModule
from data_loading.sources.sampling import AugmentationSettings
from inference.sliding_window import SlidingWindow
from nets.build import build_network
from nets.choice import NetworkChoice
from nets.dynamic_unet import SegmentationNetworkSettings
from nets.encoders.resnet import ResNetSettings
from nets.weights.matching import load_pretrained
from nets.weights.reading import read_weights
from runtime.affinity import Binding, bind_rank
from runtime.dllogger_backend import FILE_ONLY, RunLogger
from runtime.memory import keep_freed_memory
from settings import MainSettings, as_json, preprocessed_folder
from training.callbacks import EpochLog, LateEvaluation, Profile
from training.checkpoint import Checkpoint, CheckpointError, Kind, WholeFiles, read_checkpoint
from training.classification import ClassificationModule
from training.compilation import CompiledSteps
from training.learning import LearningModule
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule

LAST = "last.ckpt"
CLASS_SETTINGS = ("loss", "hidden")  # of a classifier, that its checkpoint decides


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


def find_resumable(settings: MainSettings, plan: Plan) -> Path | None:
    """The checkpoint that --resume_training continues from.

    Raises:
        CheckpointError: where there is none, or where its run had other settings or another plan; for a run that
            begins anew and would replace the last checkpoint of another.
    """
    last = settings.checkpoint_folder / LAST
    if not settings.resume_training:
        if last.is_file() and settings.save_ckpt and not settings.benchmark:
            raise CheckpointError(
                f"{last} belongs to an earlier run, which this one would replace: --resume_training goes on with it; "
                "to begin anew, give another --results or remove the file"
            )
        return None
    path = settings.ckpt_path or last
    checkpoint = read_checkpoint(path)
    checkpoint.check_run(as_json(settings))
    checkpoint.check_plan(plan, settings.cubes or settings.folder)
    return path


def network_of(settings: MainSettings) -> NetworkChoice:
    encoder = settings.encoder or "unet"
    groups = (SegmentationNetworkSettings, ResNetSettings)
    names = {entry.name for group in groups for entry in fields(group)} - {"encoder"}
    return NetworkChoice.from_json({name: getattr(settings, name) for name in names} | {"encoder": encoder})


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


def optimization_of(settings: MainSettings) -> OptimizationSettings:
    return OptimizationSettings(
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        schedule=settings.scheduler,
        fused=not settings.gradient_clip_val,
        step_epochs=settings.step_epochs,
        plateau_epochs=settings.plateau_epochs,
        lr_decay=settings.lr_decay,
        new_layer_lr_mult=settings.new_layer_lr_mult,
    )


def windows_of(settings: MainSettings, plan: Plan) -> SlidingWindow:
    return SlidingWindow(
        patch_size=plan.patch_size,
        overlap=settings.overlap,
        blend=settings.blend,
        batch_size=settings.val_batch_size,
    )


def flipped_axes(settings: MainSettings, plan: Plan) -> tuple[int, ...]:
    """The axes that test-time augmentation flips, none without --tta; says where --tta flips none either."""
    if not settings.tta:
        return ()
    axes = plan.mirror_axes if settings.tta_axes is None else settings.tta_axes
    if not axes and global_rank() == 0:
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
    if settings.sync_batchnorm:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert settings.loss != "bce"  # the settings leave that to classification
    return SegmentationModule(
        plan,
        network,
        network_settings,
        windows=windows_of(settings, plan),
        optimization=optimization_of(settings),
        tta_axes=flipped_axes(settings, plan),
        regions=regions,
        focal=settings.focal,
        loss=settings.loss,
        invert_resampled=settings.invert_resampled_y,
        run_settings=as_json(settings),
    )


def build_class_module(
    plan: Plan, settings: MainSettings, checkpoint: Checkpoint | None = None
) -> ClassificationModule:
    """A new classifier, or the one that a checkpoint holds."""
    used = settings if checkpoint is None else replace(settings, **{k: checkpoint.settings[k] for k in CLASS_SETTINGS})
    loss: Literal["ce", "bce"] = "bce" if used.loss == "bce" else "ce"
    assert settings.labels_csv is not None  # the settings ask for it
    table = read_classes(settings.labels_csv, list_cases(settings.folder), loss)
    module = ClassificationModule(
        plan,
        network_of(settings) if checkpoint is None else checkpoint.network,
        table,
        kind=loss,
        hidden=used.hidden,
        windows=windows_of(settings, plan),
        optimization=optimization_of(settings),
        run_settings=as_json(settings),
    )
    if checkpoint is not None:
        checkpoint.check_outputs(len(table.names), settings.labels_csv)
        module.network.load_state_dict(checkpoint.weights)
    return module


def training_callbacks(
    settings: MainSettings, logger: RunLogger, filename: str, mode: Literal["min", "max"]
) -> list[Callback]:
    """Log, progress bar, early stopping, averaged weights, and the last and the best checkpoint.

    Args:
        filename: of the best checkpoint; the last metric that it names decides which that is.
    """
    monitor = filename.rpartition("{")[2].partition(":")[0]
    callbacks: list[Callback] = [
        EpochLog(logger, settings.results),
        RichProgressBar(),
        LateEvaluation(settings.skip_first_n_eval, settings.val_every),
        EarlyStopping(  # Dice is nan where no validation case has any class
            monitor, patience=settings.patience, mode=mode, check_finite=False, check_on_train_epoch_end=False
        ),
    ]
    if settings.ema:
        callbacks.append(EMAWeightAveraging(decay=settings.ema))
    if settings.profile:
        callbacks.append(Profile(settings.results))
    if settings.save_ckpt:
        folder = settings.checkpoint_folder
        callbacks += [  # both at the end of an epoch, after its record, so that either can be resumed from
            ModelCheckpoint(folder, filename=filename, monitor=monitor, mode=mode, save_on_train_epoch_end=True),
            ModelCheckpoint(
                folder, filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False
            ),
        ]
    return callbacks


def build_trainer(settings: MainSettings, callbacks: list[Callback]) -> Trainer:
    """The Trainer of training and evaluation."""
    if settings.compile:
        callbacks = [*callbacks, CompiledSteps()]
    chosen = devices(settings)
    if chosen["accelerator"] == "cpu":
        keep_freed_memory()
    return Trainer(
        **chosen,
        max_epochs=2 if settings.benchmark else settings.epochs,
        min_epochs=settings.min_epochs,
        check_val_every_n_epoch=settings.val_every,
        limit_val_batches=0 if settings.benchmark else settings.test_batches or 1.0,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.gradient_clip_val or None,
        benchmark=True,
        use_distributed_sampler=False,
        callbacks=[Binding(settings.affinity), *callbacks],
        plugins=WholeFiles(),
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        enable_model_summary=False,
        default_root_dir=settings.results,
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
