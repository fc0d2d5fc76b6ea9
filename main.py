"""Train, evaluate and predict: from preprocessed cases, or raw scans, to segmentations in the scan's own geometry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar

from data_loading.data_module import LoaderSettings, SegmentationDataModule
from data_loading.sampling import AugmentationSettings
from data_preprocessing.cases import CaseError, list_cases
from data_preprocessing.plan import Plan
from data_preprocessing.regions import brats_regions
from data_preprocessing.splits import split
from inference.sliding_window import SlidingWindow
from nets.dynamic_unet import NetworkSettings, build_unet
from settings import MainSettings, as_json, parse, run_command
from training.affinity import set_affinity
from training.callbacks import EpochLog, Profile, StopWatch, describe_latency
from training.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from training.dllogger_backend import RunLogger
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything succeeded."""
    settings = parse(MainSettings, argv, __doc__ or "")
    return {"train": train, "evaluate": evaluate, "predict": predict}[settings.exec_mode](settings)


def train(settings: MainSettings) -> int:
    """Train one fold; with --benchmark, measure its steps instead."""
    plan = Plan.load(settings.folder)
    if len(plan.labels) < 2:
        raise CaseError(f"{settings.folder} has no labels: training a segmentation needs them")
    mirror_axes = tuple(range(plan.dim)) if settings.mirror_axes is None else settings.mirror_axes
    plan = plan.with_(mirror_axes=mirror_axes)
    cases = list_cases(settings.folder)
    train_cases, val_cases = split(cases, settings.nfolds, settings.fold)
    resume = find_resumable(settings)
    seed_everything(settings.seed, verbose=False)

    module = build_module(plan, settings)
    if settings.ckpt_path is not None and resume is None:
        start = read_checkpoint(settings.ckpt_path)
        start.check_plan(plan, settings.folder)
        module.network.load_state_dict(start.weights)

    logger = open_log(settings, append=resume is not None)
    watch = StopWatch(settings.warmup)
    if settings.benchmark:
        callbacks: list[Callback] = [watch]
    else:
        callbacks = training_callbacks(settings, logger)
    trainer = build_trainer(settings, callbacks)
    data = SegmentationDataModule(
        folder=settings.folder,
        plan=plan,
        train_cases=train_cases,
        val_cases=[] if settings.benchmark else val_cases,
        settings=loader_of(settings),
        device_id=device_id(trainer),
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if settings.benchmark:
        report_benchmark(logger, "train", watch.result)
    return 0


def find_resumable(settings: MainSettings) -> Path | None:
    """The checkpoint that --resume_training continues from.

    Raises:
        CheckpointError: where there is none, or where its run had other settings.
    """
    if not settings.resume_training:
        return None
    path = settings.ckpt_path or settings.checkpoint_folder / "last.ckpt"
    read_checkpoint(path).check_run(as_json(settings))
    return path


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
    )


def loader_of(settings: MainSettings) -> LoaderSettings:
    augmentation = AugmentationSettings() if settings.augment == "nnunet" else AugmentationSettings().only("mirror")
    return LoaderSettings(
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        oversampling=settings.oversampling,
        seed=settings.seed,
        steps_per_epoch=settings.steps_per_epoch,
        augmentation=augmentation,
        data2d_dim=settings.data2d_dim,
        nvol=settings.nvol,
    )


def windows_of(settings: MainSettings, plan: Plan) -> SlidingWindow:
    return SlidingWindow(
        patch_size=plan.patch_size,
        overlap=settings.overlap,
        blend=settings.blend,
        batch_size=settings.val_batch_size,
    )


def build_module(plan: Plan, settings: MainSettings, checkpoint: Checkpoint | None = None) -> SegmentationModule:
    """A new network, or the one that a checkpoint holds, with everything it needs to train and predict."""
    brats = settings.brats if checkpoint is None else checkpoint.settings["brats"]
    regions = brats_regions(plan.labels) if brats else None
    if checkpoint is None:
        network_settings = network_of(settings)
        network = build_unet(plan, network_settings, out_channels=len(regions.names) if regions else plan.n_class)
    else:
        network_settings, network = checkpoint.network, checkpoint.build()
    if settings.sync_batchnorm:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    tta_axes = plan.mirror_axes if settings.tta_axes is None else settings.tta_axes
    return SegmentationModule(
        plan,
        network,
        network_settings,
        windows=windows_of(settings, plan),
        optimization=OptimizationSettings(
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            schedule=settings.scheduler,
        ),
        tta_axes=tta_axes if settings.tta else (),
        regions=regions,
        focal=settings.focal,
        invert_resampled=settings.invert_resampled_y,
        run_settings=as_json(settings),
    )


def training_callbacks(settings: MainSettings, logger: RunLogger) -> list[Callback]:
    """Log, progress bar, early stopping, averaged weights, and the last and the best checkpoint."""
    callbacks: list[Callback] = [
        EpochLog(logger, settings.results),
        RichProgressBar(),
        EarlyStopping("dice", patience=settings.patience, mode="max", strict=False),
    ]
    if settings.ema:
        callbacks.append(EMAWeightAveraging(decay=settings.ema))
    if settings.profile:
        callbacks.append(Profile(settings.results))
    if settings.save_ckpt:
        folder = settings.checkpoint_folder
        callbacks += [
            ModelCheckpoint(folder, filename="{epoch}-{dice:.2f}", monitor="dice", mode="max"),
            ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
        ]
    return callbacks


def build_trainer(settings: MainSettings, callbacks: list[Callback]) -> Trainer:
    """The Trainer of every mode: devices, precision, length."""
    gpus = settings.gpus
    if gpus is None:
        gpus = min(torch.cuda.device_count(), 1)
    if gpus > torch.cuda.device_count():
        raise ValueError(f"--gpus {gpus}, but this machine has {torch.cuda.device_count()}: --gpus 0 runs on the CPU")
    ranks = gpus or settings.cpu_ranks
    many = ranks * settings.nodes > 1
    bf16 = not gpus or torch.cuda.is_bf16_supported()
    return Trainer(
        accelerator="gpu" if gpus else "cpu",
        devices=ranks,
        num_nodes=settings.nodes,
        strategy="ddp" if many else "auto",
        precision=("bf16-mixed" if bf16 else "16-mixed") if settings.amp else "32-true",
        max_epochs=2 if settings.benchmark else settings.epochs,
        min_epochs=settings.min_epochs,
        check_val_every_n_epoch=settings.val_every,
        limit_train_batches=settings.train_batches or 1.0,
        limit_val_batches=0 if settings.benchmark else settings.test_batches or 1.0,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.gradient_clip_val or None,
        benchmark=True,
        sync_batchnorm=settings.sync_batchnorm,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        enable_model_summary=False,
        default_root_dir=settings.results,
    )
