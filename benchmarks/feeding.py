"""What the loader costs a node that feeds a GPU, measured without one.

``python -m benchmarks.feeding`` runs the sources that a GPU gets: reading processes cut the box that a turned and
scaled patch needs, and draw its parameters; the main process hands both on. Effects and the copy to the device are the
GPU's work, and are left out. The device is a clock: it takes a batch of two every 8.7 ms (230 images/s) and waits where
none has come.

CPU time of both sides is measured. How many cores keep the device busy follows by arithmetic; with the cores that are
here, the rate itself is measured too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn
from rich.console import Console
from rich.table import Table

from benchmarks.made_up import made_up_plan, make_cases
from cases.case import list_cases, open_array
from cases.files import write_array
from cases.plan import Plan
from cases.settings import Settings, above, setting
from cli.compose import parse
from cli.run import run_command
from data_loading.augmentation.pipeline import Augmentation
from data_loading.dali import PipelineSpec, build_pipeline
from data_loading.module import LoaderSettings, patch_source, patch_spec
from data_loading.sources.patches import PatchSource

BUSY = 0.97  # of the device's time, which is wanted


@dataclass(frozen=True, kw_only=True)
class FeedingSettings(Settings):
    """What is fed to which device."""

    patch_size: tuple[int, int, int] = setting((128, 128, 128), "patch, D H W", check=above(0))
    channels: tuple[int, ...] = setting((1, 4), "channels of a volume", check=above(0))
    megabytes: tuple[int, ...] = setting((10, 100, 1000), "sizes of a volume in float32", check=above(0))
    dtypes: tuple[str, ...] = setting(("float32", "float16"), "how volumes are stored")
    workers: tuple[int, ...] = setting((1, 2, 4, 8, 16), "reading processes", check=above(0))
    batch_size: int = setting(2, "patches of a batch", check=above(0))
    device_ms: float = setting(8.7, "time of the device for a batch", check=above(0))
    batches: int = setting(60, "batches of a measurement", check=above(0))


@dataclass(frozen=True, kw_only=True)
class Fed:
    """One combination.

    Attributes:
        channels, megabytes, dtype: of the volumes.
        worker_ms: CPU time of a reading process for a sample, handing it over included.
        main_ms: CPU time of the main process, DALI's threads included, for a batch.
        sample_mb: that cross shared memory for a sample, on average.
        cores: that keep the device busy for ``BUSY`` of its time, by arithmetic.
        measured: by number of workers: images a second, and the share of its time that the device waited.
    """

    channels: int
    megabytes: int
    dtype: str
    worker_ms: float
    main_ms: float
    sample_mb: float
    cores: float
    measured: dict[int, tuple[float, float]]


def run(settings: FeedingSettings) -> Iterator[Fed]:
    """Every combination of channels, sizes and types."""
    for channels in settings.channels:
        for megabytes in settings.megabytes:
            for dtype in settings.dtypes:
                with tempfile.TemporaryDirectory() as temporary:
                    folder = Path(temporary)
                    plan = _volumes(folder, settings, channels, megabytes, dtype)
                    yield _measured(folder, plan, settings, channels, megabytes, dtype)


def _volumes(folder: Path, settings: FeedingSettings, channels: int, megabytes: int, dtype: str) -> Plan:
    """Two cubes, no smaller than the patch."""
    side = max(round((megabytes * 1e6 / 4 / channels) ** (1 / 3)), *settings.patch_size)
    make_cases(folder, (side, side, side), 2, channels=channels)
    if dtype == "float16":
        for case in list_cases(folder):
            write_array(folder / f"{case}_x.npy", np.asarray(open_array(folder, case, "x"), np.float16))
    plan = made_up_plan(settings.patch_size)
    names = tuple(f"channel {index}" for index in range(channels))
    plan = plan.with_(channels=names, normalization=plan.normalization * channels)
    plan.save(folder)
    return plan


def _measured(folder: Path, plan: Plan, settings: FeedingSettings, channels: int, megabytes: int, dtype: str) -> Fed:
    loading = LoaderSettings(batch_size=settings.batch_size, num_workers=0, steps_per_epoch=settings.batches)
    source = patch_source(folder, plan, list_cases(folder), loading, Augmentation.nnunet(), compiled=False)
    spec = replace(patch_spec(source, plan, loading, device_id=None), graph=_staged)
    sample_mb = _sample_mb(source, settings)
    measured, worker_times, main_times = {}, [], []
    for workers in settings.workers:
        rate, idle, worker, main = _feed(source, replace(spec, num_workers=workers), settings)
        measured[workers] = (rate, idle)
        worker_times.append(worker)
        main_times.append(main)
    worker_ms, main_ms = min(worker_times), min(main_times)
    batches_a_second = BUSY / (settings.device_ms / 1000)
    cores = batches_a_second * (settings.batch_size * worker_ms + main_ms) / 1000
    return Fed(
        channels=channels,
        megabytes=megabytes,
        dtype=dtype,
        worker_ms=worker_ms,
        main_ms=main_ms,
        sample_mb=sample_mb,
        cores=cores,
        measured=measured,
    )


def _staged(*nodes: Any) -> tuple[Any, ...]:
    """The copy to pinned memory, which precedes the one to the GPU; here to any memory."""
    return tuple(fn.copy(node) for node in nodes)


@dataclass(frozen=True)
class _Sample:
    iteration: int
    idx_in_batch: int


def _sample_mb(source: PatchSource, settings: FeedingSettings) -> float:
    """Megabytes of a sample; all volumes are in the page cache then."""
    samples: list[Any] = [_Sample(step, i) for step in range(settings.batches) for i in range(settings.batch_size)]
    return sum(int(array.nbytes) for sample in samples for array in source(sample)) / len(samples) / 1e6


def _children_seconds() -> float:
    """CPU time of the processes that this one has started and that run."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _feed(source: PatchSource, spec: PipelineSpec, settings: FeedingSettings) -> tuple[float, float, float, float]:
    """Images a second, the share of its time that the device waits, CPU ms of workers a sample and of this one a batch.

    The host keeps one batch queued behind the one that the device works on, as a training does.
    """
    pipeline = build_pipeline(source, spec, 0)
    step = settings.device_ms / 1000
    for _ in range(2 * spec.read_ahead):  # what was read ahead of the start is no rate
        pipeline.run()
    cpu, workers, began = time.process_time(), _children_seconds(), time.perf_counter()
    free, idle = began, 0.0
    for _ in range(settings.batches):
        pipeline.run()
        now = time.perf_counter()
        idle += max(0.0, now - free)
        free = max(free, now) + step
        time.sleep(max(0.0, free - 2 * step - time.perf_counter()))
    seconds = free - began
    main_ms = 1000 * (time.process_time() - cpu) / settings.batches
    images = settings.batches * spec.batch_size
    worker_ms = 1000 * (_children_seconds() - workers) / images
    del pipeline
    return images / seconds, idle / seconds, worker_ms, main_ms


def table(found: list[Fed], settings: FeedingSettings) -> Table:
    """A row for each combination."""
    wanted = 1000 * settings.batch_size / settings.device_ms
    cores = len(os.sched_getaffinity(0))
    made = Table(title=f"A device of {wanted:.0f} images/s, {cores} cores here", show_edge=False)
    for name in ("volume", "worker ms a sample", "main ms a batch", "MB a sample", f"cores for {BUSY:.0%}"):
        made.add_column(name, justify="right")
    for workers in settings.workers:
        made.add_column(f"{workers} workers", justify="right")
    for row in found:
        rates = [f"{rate:.0f}/s, waits {idle:.0%}" for rate, idle in row.measured.values()]
        volume = f"{row.channels} x {row.megabytes} MB {row.dtype}"
        numbers = (f"{row.worker_ms:.2f}", f"{row.main_ms:.2f}", f"{row.sample_mb:.1f}", f"{row.cores:.1f}")
        made.add_row(volume, *numbers, *rates)
    return made


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    settings = parse((FeedingSettings,), argv, __doc__ or "")[FeedingSettings]
    found = []
    for fed in run(settings):
        found.append(fed)
        print(fed, file=sys.stderr, flush=True)  # a killed run has told what it found
    Console(width=200).print(table(found, settings))
    return 0


if __name__ == "__main__":
    run_command(main)
