"""Sizes on either device, and main.py's settings under them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu_check.conditions import DEVICE_SECONDS, Conditions
from cli.benchmark import BenchmarkSettings
from data_loading.module import BatchSettings, LoaderSettings
from nets.dynamic_unet import NetworkSettings
from runtime.devices import DeviceSettings
from training.fitting import LimitSettings


def test_a_gpu_is_measured_at_the_goals_sizes() -> None:
    gpu, cpu = Conditions.on(0, Path("x")), Conditions.on(None, Path("x"))
    assert (gpu.patch_size, gpu.channels, gpu.classes, gpu.batch_size) == ((128, 128, 128), 4, 4, 2)
    assert (gpu.amp, gpu.filters, str(gpu.device)) == (True, (), "cuda:0")
    assert (gpu.goal("training"), gpu.goal("inference"), gpu.goal("loader efficiency")) == (110, 230, 0.97)
    assert cpu.goal("training") is None
    assert max(cpu.patch_size) == 16
    assert round(1000 * DEVICE_SECONDS, 1) == 8.7


def test_json_gives_the_same_back(tiny: Conditions) -> None:
    assert Conditions.from_json(tiny.to_json()) == tiny


def test_main_reads_what_is_meant(tiny: Conditions) -> None:
    train = tiny.given("train", "--num_workers", "3", constant=True)
    assert (train[LoaderSettings].train_batches, train[BenchmarkSettings].warmup) == (3, 1)
    assert (train[LoaderSettings].batch_size, train[LoaderSettings].num_workers) == (2, 3)
    assert train[BenchmarkSettings].constant_batch
    assert (train[NetworkSettings].filters, train[NetworkSettings].depth) == ((4, 8, 16), 2)
    assert (train[DeviceSettings].gpus, train[DeviceSettings].amp) == (0, False)
    predict = tiny.given("predict")
    assert (predict[LimitSettings].test_batches, predict[BatchSettings].batch_size) == (3, 2)
    assert not predict[BenchmarkSettings].constant_batch


def test_data_are_made_once(tiny: Conditions) -> None:
    folder, plan = tiny.data()
    written = (folder / "plan.json").stat().st_mtime_ns
    assert tiny.data() == (folder, plan)
    assert (folder / "plan.json").stat().st_mtime_ns == written
    assert (plan.in_channels, plan.n_class, plan.patch_size) == (2, 3, (16, 16, 16))
