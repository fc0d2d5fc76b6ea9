"""``--benchmark``: throughput and latency of training steps and of prediction, one pass to warm up and one measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from pytorch_lightning import seed_everything

from cases.case import CaseError, list_cases
from cases.folder import FolderSettings
from cases.regions import RegionSettings
from cases.settings import Given, Settings, at_least, setting
from cases.splits import TrainingFoldSettings
from cli import building
from cli.mode import Mode
from cli.train import PATCHES, slice_faults
from data_loading.augmentation.pipeline import Augmentation
from data_loading.module import BatchSettings, LoaderSettings, SliceSettings, patch_loader
from data_loading.sources.sampling import PlaceSettings
from nets.build import build_network
from nets.choice import NetworkChoice
from nets.dynamic_unet import SegmentationNetworkSettings
from runtime.devices import DeviceSettings, build_fabric, global_rank, gpu_of
from runtime.dllogger_backend import LogSettings, RunLogger, open_log
from runtime.latency import summarise_latencies
from training.callbacks import StopWatch, describe_latency
from training.checkpoint import StartSettings, read_checkpoint
from training.compilation import CompileSettings
from training.fitting import LimitSettings
from training.losses import LossSettings
from training.optimization import OptimizationSettings

PREDICTED = 200  # batches of a pass where --test_batches says nothing


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """What is measured."""

    warmup: int = setting(5, "first steps left out", check=at_least(0), kept=False)
    constant_batch: bool = setting(
        False, "one batch on the device again and again, so that loading is free", kept=False
    )


def train(given: Given) -> int:
    """Throughput of training steps."""
    seed_everything(given[LoaderSettings].seed, verbose=False)
    plan, cases = building.training_plan(given), building.training_cases(given)
    module = building.build_module(given, plan)
    logger = open_log(given[LogSettings], given.as_json(), rank=global_rank())
    wanted = given[BenchmarkSettings]
    watch = StopWatch(wanted.warmup, given[LoaderSettings].batch_size)
    trainer = building.plain_trainer(
        given,
        [watch, *given[CompileSettings].callbacks()],
        max_epochs=2,
        limit_val_batches=0,
        gradient_clip_val=given[OptimizationSettings].gradient_clip_val or None,
    )
    data = building.build_data(given, plan, cases, trainer, constant=wanted.constant_batch)
    try:
        trainer.fit(module, datamodule=data)
    finally:
        data.teardown("fit")
    if not watch.result:
        raise CaseError(f"--train_batches leaves nothing to measure after --warmup {wanted.warmup}")
    report(logger, "train", watch.result)
    return 0


def predict(given: Given) -> int:
    """Throughput of the network on patches, loading included.

    Without a checkpoint the plan's network runs with random weights: their values cost no time.
    """
    path, folder = given[StartSettings].ckpt_path, given[FolderSettings].folder()
    checkpoint = read_checkpoint(path) if path else None
    plan = checkpoint.plan if checkpoint else given[FolderSettings].plan()
    fabric = build_fabric(given[DeviceSettings])
    network = checkpoint.build() if checkpoint else build_network(plan, NetworkChoice.of(given))
    fabric.to_device(network).eval()
    steps, warmup = given[LimitSettings].test_batches or PREDICTED, given[BenchmarkSettings].warmup
    loader = patch_loader(
        folder,
        plan,
        list_cases(folder),
        LoaderSettings(**vars(given[BatchSettings]), steps_per_epoch=steps),
        Augmentation(),
        places=given[PlaceSettings],
        slices=given[SliceSettings],
        device_id=gpu_of(fabric),
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        constant=given[BenchmarkSettings].constant_batch,
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
                if measured and step >= warmup:
                    times.append(now - last)
                else:
                    waited = loader.wait_seconds
                last = now
    if not times:
        raise CaseError(f"--test_batches {steps} leaves nothing to measure after --warmup {warmup}")
    if fabric.is_global_zero:
        images = given[BatchSettings].batch_size * fabric.world_size
        result = summarise_latencies("predict", times, images)
        result["data_wait_predict"] = 100 * (loader.wait_seconds - waited) / sum(times)
        report(open_log(given[LogSettings], given.as_json(), rank=0), "predict", result)
    return 0


def report(logger: RunLogger, mode: str, result: dict[str, float]) -> None:
    """Log a result with its units."""
    describe_latency(logger, mode)
    logger.log(step=(), data=result)


MEASURING: tuple[type[Settings], ...] = (  # what both read
    FolderSettings,
    LogSettings,
    DeviceSettings,
    PlaceSettings,
    SegmentationNetworkSettings,
    BenchmarkSettings,
)
MODES = (
    Mode(
        name="--exec_mode train --benchmark",
        help="measure training steps",
        chosen_by={"exec_mode": "train", "kind": "segmentation", "benchmark": True},
        groups=(
            *MEASURING,
            LoaderSettings,
            *PATCHES,
            TrainingFoldSettings,
            LossSettings,
            RegionSettings,
            OptimizationSettings,
            CompileSettings,
        ),
        run=train,
        faults=slice_faults,
    ),
    Mode(
        name="--exec_mode predict --benchmark",
        help="measure prediction of patches",
        chosen_by={"exec_mode": "predict", "kind": "segmentation", "benchmark": True},
        groups=(*MEASURING, BatchSettings, SliceSettings, StartSettings, LimitSettings),
        run=predict,
    ),
)
