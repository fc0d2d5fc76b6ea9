"""The modes of main.py: pre-train, train, evaluate, predict, and the benchmark of prediction."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import replace

import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import RichProgressBar

from cases.case import CaseError, list_cases
from cases.plan import Plan
from cases.splits import split
from cli.assembly import (
    build_class_module,
    build_fabric,
    build_module,
    checkpoint_of,
    class_data_of,
    data_of,
    fit_with,
    fold_cases,
    gpu_of,
    group,
    load_plan,
    loader_of,
    open_log,
    resumable,
    start_weights,
    trainer_of,
    training_of,
    training_plan,
    with_encoder,
)
from cli.pretraining import pretraining_of, write_scan_features
from cli.segmenting import evaluate_list, source_of, write_predictions
from data_loading.module import patch_loader
from pretraining.genesis.loader import GenesisDataModule
from pretraining.restoration import RestorationPictures
from runtime.dllogger_backend import RunLogger
from runtime.latency import summarise_latencies
from settings import MainSettings
from training.callbacks import StopWatch, describe_latency
from training.classification import write_scores
from training.compilation import CompileSettings
from training.fitting import FitSettings, training_arguments
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule


def run(settings: MainSettings) -> int:
    """Run the mode that the settings name; 0 where everything succeeded."""
    settings = with_encoder(settings)
    for library in ("pytorch_lightning", "lightning_fabric"):  # its tips and device lists tell users nothing
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    classify = settings.kind == "classification"
    mode = {
        "pretrain": pretrain,
        "train": train_classifier if classify else train,
        "evaluate": evaluate_classifier if classify else evaluate,
        "predict": predict,
    }[settings.exec_mode]
    return mode(settings)


def pretrain(settings: MainSettings) -> int:
    """Learn from unlabelled scans, by --method; the autoencoder ends by writing their features."""
    seed_everything(settings.seed, verbose=False)
    work = pretraining_of(settings)
    module = work.module
    resume = resumable(settings, module.plan, module.learns)
    start_weights(settings, module, module.plan, resume)
    logger = open_log(settings, append=resume is not None)
    trainer = training_of(settings, module, logger, RestorationPictures(settings.results, settings.picture_every))
    loading, device_id = loader_of(settings), gpu_of(trainer)
    data = GenesisDataModule(work.train, work.validation, module.plan, loading, work.genesis, device_id)
    fit_with(settings, trainer, module, data, (len(work.train.names), len(work.validation.names)), resume)
    write_scan_features(settings, module, trainer)
    return 0


def train(settings: MainSettings) -> int:
    """Train one fold; with --benchmark, measure its steps instead."""
    plan = training_plan(settings)
    if len(plan.labels) < 2:
        raise CaseError(f"{settings.folder} has no labels: training a segmentation needs them")
    train_cases, val_cases = fold_cases(settings)
    resume = resumable(settings, plan, "segmentation")
    seed_everything(settings.seed, verbose=False)
    module = build_module(plan, settings)
    module.new_layers = start_weights(settings, module, plan, resume)
    logger = open_log(settings, append=resume is not None)
    if settings.benchmark:
        return benchmark_train(settings, plan, module, train_cases, val_cases, logger)
    trainer = training_of(settings, module, logger)
    data = data_of(settings, plan, train_cases, val_cases, trainer)
    fit_with(settings, trainer, module, data, (len(train_cases), len(val_cases)), resume)
    return 0


def benchmark_train(
    settings: MainSettings,
    plan: Plan,
    module: SegmentationModule,
    train_cases: list[str],
    val_cases: list[str],
    logger: RunLogger,
) -> int:
    """Throughput of training steps: one pass to warm up, one to measure."""
    watch = StopWatch(settings.warmup, settings.batch_size)
    further = training_arguments(group(FitSettings, settings), group(OptimizationSettings, settings))
    further |= {"max_epochs": 2, "limit_val_batches": 0}
    trainer = trainer_of(settings, [watch, *group(CompileSettings, settings).callbacks()], **further)
    data = data_of(settings, plan, train_cases, val_cases, trainer)
    try:
        trainer.fit(module, datamodule=data)
    finally:
        data.teardown("fit")
    if not watch.result:
        raise CaseError(f"--train_batches leaves nothing to measure after --warmup {settings.warmup}")
    report_benchmark(logger, "train", watch.result)
    return 0


def train_classifier(settings: MainSettings) -> int:
    """Train one fold of a classification."""
    plan = training_plan(settings)
    resume = resumable(settings, plan, "classification")
    seed_everything(settings.seed, verbose=False)
    module = build_class_module(plan, settings)
    module.new_layers = start_weights(settings, module, plan, resume)
    logger = open_log(settings, append=resume is not None)
    trainer = training_of(settings, module, logger)
    data = class_data_of(settings, module, trainer)
    fit_with(settings, trainer, module, data, (len(data.train_cases), len(data.val_cases)), resume)
    if trainer.is_global_zero and module.scores is not None:
        write_scores(settings.results, module)
    return 0


def evaluate_classifier(settings: MainSettings) -> int:
    """Accuracy, AUC and confusion matrix of a checkpoint on the fold's validation scans."""
    checkpoint = checkpoint_of(settings, "classification")
    checkpoint.check_plan(load_plan(settings), settings.folder)
    module = build_class_module(checkpoint.plan, settings, checkpoint)
    trainer = trainer_of(settings, [RichProgressBar()], limit_val_batches=settings.test_batches or 1.0)
    trainer.validate(module, datamodule=class_data_of(settings, module, trainer), verbose=False)
    if trainer.is_global_zero:
        open_log(settings).log(step=(), data=module.evaluation())
        print(*write_scores(settings.results, module), sep="\n")
    return 0


def evaluate(settings: MainSettings) -> int:
    """Dice of a checkpoint on the fold's validation cases, or on the scans of --img_list.

    --save_preds writes the predictions of validation cases too.
    """
    if settings.img_list is not None:
        return evaluate_list(settings, source_of(settings))
    checkpoint = checkpoint_of(settings)
    checkpoint.check_plan(load_plan(settings), settings.folder)
    _, val_cases = split(list_cases(settings.folder), settings.nfolds, settings.fold)
    module = build_module(checkpoint.plan, settings, checkpoint)
    trainer = trainer_of(settings, [RichProgressBar()], limit_val_batches=settings.test_batches or 1.0)
    trainer.validate(module, datamodule=data_of(settings, checkpoint.plan, [], val_cases, trainer), verbose=False)
    if trainer.is_global_zero:
        open_log(settings, append=True).log(step=(), data=module.evaluation())
        print(module.said)
    if settings.save_preds:
        return write_predictions(settings, checkpoint, val_cases)
    return 0


def predict(settings: MainSettings) -> int:
    """Label maps of raw scans (--input) or of a preprocessed folder, on each scan's own grid."""
    if settings.benchmark:
        return benchmark_predict(settings)
    if settings.input is not None:
        return write_predictions(settings, source_of(settings), None)
    checkpoint = checkpoint_of(settings)
    checkpoint.check_plan(load_plan(settings), settings.folder)
    cases = list_cases(settings.folder)
    if settings.folder.name == "val":  # holds every training case; the fold's validation cases are unseen
        _, cases = split(cases, settings.nfolds, settings.fold)
    if not cases:
        raise CaseError(f"{settings.folder} holds no cases: run preprocess.py --exec_mode test first")
    return write_predictions(settings, checkpoint, cases)


def benchmark_predict(settings: MainSettings) -> int:
    """Throughput of the network on patches, loading included: one pass to warm up, one to measure.

    Without a checkpoint the plan's network runs with random weights: their values cost no time.
    """
    checkpoint = checkpoint_of(settings) if settings.ckpt_path else None
    plan = checkpoint.plan if checkpoint else load_plan(settings)
    fabric = build_fabric(settings)
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
    waited = 0.0
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
                else:
                    waited = loader.wait_seconds
                last = now
    if not times:
        raise CaseError(f"--test_batches {steps} leaves nothing to measure after --warmup {settings.warmup}")
    if fabric.is_global_zero:
        images = settings.batch_size * fabric.world_size
        result = summarise_latencies("predict", times, images)
        result["data_wait_predict"] = 100 * (loader.wait_seconds - waited) / sum(times)
        report_benchmark(open_log(settings), "predict", result)
    return 0


def report_benchmark(logger: RunLogger, mode: str, result: dict[str, float]) -> None:
    describe_latency(logger, mode)
    logger.log(step=(), data=result)
