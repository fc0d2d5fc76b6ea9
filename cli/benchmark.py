"""``--benchmark``: throughput and latency of training steps and of prediction, one pass to warm up and one measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from pytorch_lightning import Callback, seed_everything

from cases.case import CaseError, list_cases
from cases.folder import FolderSettings
from cases.regions import RegionSettings
from cases.settings import Given, Settings, at_least, setting
from cases.splits import TrainingFoldSettings
from cli import building
from cli.mode import Mode
from cli.train import PATCHES, slice_faults
from data_loading.augmentation.pipeline import Augmentation
from data_loading.loader import PatchLoader
from data_loading.module import BatchSettings, LoaderSettings, SliceSettings, patch_loader
from data_loading.sources.sampling import PlaceSettings
from nets.build import build_network
from nets.dynamic_unet import SegmentationNetworkSettings
from runtime.devices import DeviceSettings, build_fabric, global_rank, gpu_of
from runtime.dllogger_backend import LogSettings, RunLogger, open_log
from runtime.latency import StepClock, summarise_latencies
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
    logger = open_log(given[LogSettings], given.as_json(), rank=global_rank())
    report(logger, "train", measure_training(given))
    return 0


def measure_training(given: Given, further: Sequence[Callback] = ()) -> dict[str, float]:
    """Throughput, latency and waiting of training steps, as :class:`StopWatch` gives them.

    Args:
        given: settings of the mode.
        further: callbacks of the training besides those of the mode.

    Raises:
        CaseError: where no step is left to measure.
    """
    seed_everything(given[LoaderSettings].seed, verbose=False)
    plan, cases = building.training_plan(given), building.training_cases(given)
    module = building.build_module(given, plan)
    wanted = given[BenchmarkSettings]
    watch = StopWatch(wanted.warmup, given[LoaderSettings].batch_size)
    trainer = building.plain_trainer(
        given,
        [watch, *given[CompileSettings].callbacks(), *further],
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
    return watch.result


def predict(given: Given) -> int:
    """Throughput of the network on patches, loading included."""
    fabric = build_fabric(given[DeviceSettings])
    result = measure_prediction(given, fabric)
    if fabric.is_global_zero:
        report(open_log(given[LogSettings], given.as_json(), rank=0), "predict", result)
    return 0


def measure_prediction(given: Given, fabric: Fabric) -> dict[str, float]:
    """Throughput, latency and waiting of the network on patches.

    Without a checkpoint the plan's network runs with random weights: their values cost no time.

    Raises:
        CaseError: where no step is left to measure.
    """
    path, folder = given[StartSettings].ckpt_path, given[FolderSettings].folder()
    checkpoint = read_checkpoint(path) if path else None
    plan = checkpoint.plan if checkpoint else given[FolderSettings].plan()
    network = checkpoint.build() if checkpoint else build_network(plan, building.network_choice(given, plan))
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
    clock = StepClock(fabric.device)
    with loader, torch.inference_mode(), fabric.autocast():
        waited = time_second_pass(loader, network, clock, warmup)
    times = clock.seconds()
    if not times:
        raise CaseError(f"--test_batches {steps} leaves nothing to measure after --warmup {warmup}")
    images = given[BatchSettings].batch_size * fabric.world_size
    result = summarise_latencies("predict", times, images, span=clock.span)
    return result | {"data_wait_predict": 100 * waited / clock.span}


def time_second_pass(
    loader: PatchLoader, network: Callable[[torch.Tensor], object], clock: StepClock, warmup: int
) -> float:
    """Two passes, the second of which the clock measures after ``warmup`` steps; seconds it waited for data."""
    waited = 0.0
    for measured in (False, True):
        for step, batch in enumerate(loader):
            network(batch["image"])
            clock.tick()
            if not measured or step + 1 <= warmup:
                clock.restart()
                waited = loader.wait_seconds
    return loader.wait_seconds - waited


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
