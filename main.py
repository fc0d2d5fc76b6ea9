"""Train, evaluate and predict: from preprocessed cases, or raw scans, to segmentations in the scan's own geometry."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar

from data_loading.data_module import LoaderSettings, SegmentationDataModule, patch_loader
from data_loading.sampling import AugmentationSettings
from data_preprocessing.cases import CaseError, has_label, list_cases, open_array, read_info
from data_preprocessing.crop import crop
from data_preprocessing.plan import Plan
from data_preprocessing.regions import brats_regions
from data_preprocessing.splits import split
from data_preprocessing.volume import read_label
from inference.predict import PredictSettings, predict_scans, predict_stored
from inference.scans import input_scans
from inference.sliding_window import SlidingWindow
from nets.dynamic_unet import NetworkSettings, build_unet
from settings import MainSettings, as_json, parse, run_command
from training.affinity import set_affinity
from training.callbacks import EpochLog, LateEvaluation, Profile, StopWatch, describe_latency, latency_summary
from training.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from training.dllogger_backend import FILE_ONLY, RunLogger
from training.metrics import DiceMeter
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule


class DeviceError(ValueError):
    """Devices that this machine does not have."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything succeeded."""
    settings = parse(MainSettings, argv, __doc__ or "")
    for library in ("pytorch_lightning", "lightning_fabric"):  # its tips and device lists tell users nothing
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return {"train": train, "evaluate": evaluate, "predict": predict}[settings.exec_mode](settings)


def train(settings: MainSettings) -> int:
    """Train one fold; with --benchmark, measure its steps instead."""
    plan = Plan.load(settings.folder)
    if len(plan.labels) < 2:
        raise CaseError(f"{settings.folder} has no labels: training a segmentation needs them")
    if settings.mirror_axes is not None:
        plan = plan.with_(mirror_axes=settings.mirror_axes)
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
    watch = StopWatch(settings.warmup, settings.batch_size)
    trainer = build_trainer(settings, [watch] if settings.benchmark else training_callbacks(settings, logger))
    data = data_of(settings, plan, train_cases, val_cases, trainer)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if settings.benchmark:
        report_benchmark(logger, "train", watch.result)
    return 0


def evaluate(settings: MainSettings) -> int:
    """Dice of a checkpoint on the fold's validation cases; --save_preds writes the predictions too."""
    checkpoint = checkpoint_of(settings)
    checkpoint.check_plan(Plan.load(settings.folder), settings.folder)
    _, val_cases = split(list_cases(settings.folder), settings.nfolds, settings.fold)
    module = build_module(checkpoint.plan, settings, checkpoint)
    trainer = build_trainer(settings, [RichProgressBar()])
    trainer.validate(module, datamodule=data_of(settings, checkpoint.plan, [], val_cases, trainer), verbose=False)
    if trainer.is_global_zero:
        open_log(settings).log(step=(), data=module.evaluation())
    if settings.save_preds:
        return write_predictions(settings, checkpoint, val_cases)
    return 0


def predict(settings: MainSettings) -> int:
    """Label maps of raw scans (--input) or of a preprocessed folder, on each scan's own grid."""
    if settings.benchmark:
        return benchmark_predict(settings)
    checkpoint = checkpoint_of(settings)
    if settings.input is not None:
        return write_predictions(settings, checkpoint, None)
    checkpoint.check_plan(Plan.load(settings.folder), settings.folder)
    cases = list_cases(settings.folder)
    if settings.folder.name == "val":  # holds every training case; the fold's validation cases are unseen
        _, cases = split(cases, settings.nfolds, settings.fold)
    if not cases:
        raise CaseError(f"{settings.folder} holds no cases: run preprocess.py --exec_mode test first")
    return write_predictions(settings, checkpoint, cases)


def write_predictions(settings: MainSettings, checkpoint: Checkpoint, cases: list[str] | None) -> int:
    """Predict and write cases of the preprocessed folder, or the scans of --input where ``cases`` is None.

    Where labels lie beside the cases, Dice is printed. Returns 1 if a case failed, after all others.
    """
    fabric = build_fabric(settings)
    fabric.launch()
    module = build_module(checkpoint.plan, settings, checkpoint)
    network = fabric.to_device(module.network).eval()
    wanted = PredictSettings(
        windows=module.windows,
        flip_axes=module.tta_axes,
        regions=module.regions,
        keep_probabilities=settings.save_preds,
    )

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        with fabric.autocast():
            return network(windows)[0]

    mine = slice(fabric.global_rank, None, fabric.world_size)
    folder = settings.results if cases is None else settings.results / predictions_name(settings)
    if settings.input is not None and cases is None:
        scans = input_scans(settings.input, channels=len(checkpoint.plan.channels))[mine]
        done = predict_scans(scans, checkpoint.plan, predictor, wanted, folder, device=fabric.device)
    else:
        done = predict_stored(settings.folder, (cases or [])[mine], predictor, wanted, folder, device=fabric.device)

    meter = DiceMeter(checkpoint.plan.n_class, module.regions)
    faults = torch.zeros((), device=fabric.device)
    for case in done:
        if case.path is None:
            faults += 1
            print(f"error: {case.fault}", file=sys.stderr, flush=True)
            continue
        dice = "" if cases is None else score(case.path, settings.folder, case.case, meter)
        print(f"{case.path}  {case.seconds:.1f} s{dice}", flush=True)
    totals, faults = fabric.all_reduce((meter.totals.to(fabric.device), faults), reduce_op="sum")
    if fabric.is_global_zero and totals[1, 0] > 0:
        mean, by_class = DiceMeter.means(totals.cpu())
        names = module.regions.names if module.regions else checkpoint.plan.labels[1:]
        shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in zip(names, by_class, strict=True))
        print(f"Dice {100 * mean:.2f} over {int(totals[1, 0])} cases ({shown})")
    return int(faults > 0)


def score(prediction: Path, folder: Path, case: str, meter: DiceMeter) -> str:
    """Count a written label map against the case's own label, where it has one; the Dice in words."""
    if not has_label(folder, case):
        return ""
    predicted = torch.from_numpy(crop(read_label(prediction)[0], read_info(folder, case).crop_box).copy())
    dice = meter.update(predicted, torch.from_numpy(open_array(folder, case, "orig_y").copy()))
    return f"  Dice {100 * dice.nanmean():.2f}"


def predictions_name(settings: MainSettings) -> str:
    """The folder's name that users of this command line expect."""
    stem = settings.ckpt_path.stem if settings.ckpt_path else ""
    return f"predictions_{stem}_task={settings.task}_fold={settings.fold}" + ("_tta" if settings.tta else "")


def benchmark_predict(settings: MainSettings) -> int:
    """Throughput of the network on patches, loading included: one pass to warm up, one to measure.

    Without a checkpoint the plan's network runs with random weights: their values cost no time.
    """
    checkpoint = checkpoint_of(settings) if settings.ckpt_path else None
    plan = checkpoint.plan if checkpoint else Plan.load(settings.folder)
    fabric = build_fabric(settings)
    fabric.launch()
    module = build_module(plan, settings, checkpoint)
    network = fabric.to_device(module.network).eval()
    steps = settings.test_batches or 200
    loader = patch_loader(
        settings.folder,
        plan,
        list_cases(settings.folder),
        replace(loader_of(settings), steps_per_epoch=steps, augmentation=None),
        device_id=fabric.device.index if fabric.device.type == "cuda" else None,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    times: list[float] = []
    with loader, torch.inference_mode(), fabric.autocast():
        for measured in (False, True):
            last = time.perf_counter()
            for step, batch in enumerate(loader):
                network(batch["image"])
                if fabric.device.type == "cuda":
                    torch.cuda.synchronize(fabric.device)
                now = time.perf_counter()
                if measured and step >= settings.warmup:
                    times.append(now - last)
                last = now
    if not times:
        raise CaseError(f"--test_batches {steps} leaves nothing to measure after --warmup {settings.warmup}")
    if fabric.is_global_zero:
        images = settings.batch_size * fabric.world_size
        report_benchmark(open_log(settings), "predict", latency_summary("predict", times, images))
    return 0


def checkpoint_of(settings: MainSettings) -> Checkpoint:
    if settings.ckpt_path is None:
        raise CheckpointError(f"--exec_mode {settings.exec_mode} needs --ckpt_path")
    return read_checkpoint(settings.ckpt_path)


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
        steps_per_epoch=settings.train_batches or settings.steps_per_epoch,
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
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
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
        LateEvaluation(settings.skip_first_n_eval, settings.val_every),
        EarlyStopping("dice", patience=settings.patience, mode="max", check_on_train_epoch_end=False),
    ]
    if settings.ema:
        callbacks.append(EMAWeightAveraging(decay=settings.ema))
    if settings.profile:
        callbacks.append(Profile(settings.results))
    if settings.save_ckpt:
        folder = settings.checkpoint_folder
        callbacks += [
            ModelCheckpoint(
                folder, filename="{epoch}-{dice:.2f}", monitor="dice", mode="max", save_on_train_epoch_end=False
            ),
            ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
        ]
    return callbacks


def build_trainer(settings: MainSettings, callbacks: list[Callback]) -> Trainer:
    """The Trainer of training and evaluation."""
    return Trainer(
        **devices(settings),
        max_epochs=2 if settings.benchmark else settings.epochs,
        min_epochs=settings.min_epochs,
        check_val_every_n_epoch=settings.val_every,
        limit_val_batches=0 if settings.benchmark else settings.test_batches or 1.0,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.gradient_clip_val or None,
        benchmark=True,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        enable_model_summary=False,
        default_root_dir=settings.results,
    )


def build_fabric(settings: MainSettings) -> Fabric:
    """Devices, ranks and precision for prediction."""
    return Fabric(**devices(settings))


def devices(settings: MainSettings) -> dict[str, Any]:
    """What Trainer and Fabric both take: device kind and number, how ranks talk, precision."""
    gpus = min(torch.cuda.device_count(), 1) if settings.gpus is None else settings.gpus
    if gpus > torch.cuda.device_count():
        raise DeviceError(f"--gpus {gpus}, but this machine has {torch.cuda.device_count()}: --gpus 0 runs on the CPU")
    ranks = gpus or settings.cpu_ranks
    set_affinity(settings.affinity if ranks > 1 else "disabled", local_rank(), ranks, gpu=gpus > 0)
    bf16 = not gpus or torch.cuda.is_bf16_supported()
    return {
        "accelerator": "gpu" if gpus else "cpu",
        "devices": ranks,
        "num_nodes": settings.nodes,
        "strategy": "ddp" if ranks * settings.nodes > 1 else "auto",
        "precision": ("bf16-mixed" if bf16 else "16-mixed") if settings.amp else "32-true",
    }


def local_rank() -> int:
    """Of this process; the launcher of several ranks sets it."""
    return int(os.environ.get("LOCAL_RANK", 0))


def data_of(
    settings: MainSettings, plan: Plan, train_cases: list[str], val_cases: list[str], trainer: Trainer
) -> SegmentationDataModule:
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return SegmentationDataModule(
        folder=settings.folder,
        plan=plan,
        train_cases=train_cases,
        val_cases=val_cases,
        settings=loader_of(settings),
        device_id=trainer.local_rank if on_gpu else None,
    )


def open_log(settings: MainSettings, *, append: bool = False) -> RunLogger:
    """The DLLogger file with this run's parameters, which ``params.json`` holds too."""
    rank = int(os.environ.get("RANK", local_rank()))
    logger = RunLogger(settings.results / (settings.logname or "logs.json"), rank=rank, append=append)
    if rank == 0:
        parameters = as_json(settings)
        (settings.results / "params.json").write_text(json.dumps(parameters, indent=1) + "\n", encoding="utf-8")
        logger.log(step="PARAMETER", data=parameters, verbosity=FILE_ONLY)
    return logger


def report_benchmark(logger: RunLogger, mode: str, result: dict[str, float]) -> None:
    describe_latency(logger, mode)
    logger.log(step=(), data=result)


if __name__ == "__main__":
    run_command(main)
