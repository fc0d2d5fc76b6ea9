"""Throughput and latency of each part of the program: the modes of ``scripts/benchmark.py``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import genesis, loader
from benchmarks.against import Gate, small_sizes
from benchmarks.checks import among
from benchmarks.made_up import GOALS, SMALL, sizes_on
from benchmarks.record import Metric, Results, latencies
from benchmarks.through_main import measure_main
from benchmarks.turns import settings_of
from benchmarks.works import WORKS, WorkSettings, preprocessed, repeat
from cases.folder import preprocessed_folder
from cases.settings import Settings, above, as_json, at_least, setting, shown
from cli.launch import switches
from runtime.dllogger_backend import RunLogger


def _by_device(name: str) -> str:
    """A size of made-up data on either device, in words."""
    return f"{shown(getattr(GOALS, name))} on a GPU, {shown(getattr(SMALL, name))} on a CPU"


@dataclass(frozen=True, kw_only=True)
class MeasureSettings(Settings):
    """What is measured, on which data, and how often."""

    mode: Literal["train", "predict", "loader", "preprocess", "genesis", "inference", "check"] = setting(
        "train", "what to measure; check: a small piece of each part, as --against compares it"
    )
    gpus: int | None = setting(
        None, "GPUs per node; 0 runs on the CPU; None: 1 where there is one", check=at_least(0), kept=False
    )
    nodes: int = setting(1, "nodes", check=above(0), kept=False)
    dim: Literal[2, 3] = setting(3, "dimensions of the network")
    batch_size: int = setting(2, "patches at once", check=above(0))
    amp: bool | None = setting(None, "mixed precision; None: on a GPU")
    train_batches: int = setting(200, "steps that train, loader and genesis measure, warm-up included", check=above(0))
    test_batches: int = setting(
        200, "batches (predict) or cases (preprocess, inference), warm-up included", check=above(0)
    )
    warmup: int = setting(100, "first steps that are left out", check=at_least(0))
    logname: str = setting("perf.json", "name of the DLLogger file in --results", kept=False)
    data: Path | None = setting(None, "preprocessed folder, for preprocess a dataset's; None: made-up scans")
    task: str | None = setting(None, "task number, whose preprocessed folder lies below /data")
    results: Path = setting(Path("results"), "where results go", kept=False)
    volume: tuple[int, int, int] | None = setting(
        None, f"sides of made-up scans, D H W; None: {_by_device('volume_dhw')}", check=above(0)
    )
    patch_size: tuple[int, int, int] | None = setting(
        None, f"patch of made-up data, D H W; None: {_by_device('patch_size')}", check=above(0)
    )
    channels: int | None = setting(None, f"channels of made-up scans; None: {_by_device('channels')}", check=above(0))
    classes: int | None = setting(
        None, f"classes of made-up scans, with the background; None: {_by_device('classes')}", check=above(1)
    )
    cases: int = setting(8, "number of made-up scans", check=above(0))
    parts: tuple[str, ...] = setting(
        tuple(WORKS), f"parts for check and --against, of {', '.join(WORKS)}", check=among(WORKS)
    )
    against: str | None = setting(None, "git revision to compare with, both measured now, turn by turn")
    rounds: int | None = setting(
        None, "rounds of both revisions (None: 3), or of real and constant batch (None: 1)", check=above(0)
    )
    max_regression: str = setting("60%", "the most that a part may be slower than in --against")

    def faults(self) -> list[str]:
        faults = []
        if any(sides is not None and len(sides) != 3 for sides in (self.volume, self.patch_size)):
            faults.append("--volume and --patch_size have three sides")
        if self.mode != "check" and self.against is None and self.warmup >= self.batches:
            faults.append(f"{self.batches} batches leave nothing to measure after --warmup {self.warmup}")
        if self.mode in ("train", "predict") and self.cases < 5:
            faults.append(f"--cases {self.cases}: five folds need as many cases")
        return faults

    @property
    def batches(self) -> int:
        """Repetitions in this mode, warm-up included."""
        return self.train_batches if self.mode in ("train", "loader", "genesis") else self.test_batches

    @property
    def folder(self) -> Path | None:
        """Of the given data."""
        if self.data is None and self.task is not None:
            return preprocessed_folder(Path("/data"), self.task, self.dim)
        return self.data

    @property
    def device_id(self) -> int | None:
        """The GPU; None for the CPU."""
        gpus = min(torch.cuda.device_count(), 1) if self.gpus is None else self.gpus
        return 0 if gpus else None

    @property
    def settled(self) -> MeasureSettings:
        """With the sizes that nobody gave, which the device decides: the goals' on a GPU."""
        sizes = sizes_on(self.device_id)
        found: dict[str, Any] = {
            "volume": sizes.volume_dhw,
            "patch_size": sizes.patch_size,
            "channels": sizes.channels,
            "classes": sizes.classes,
            "amp": sizes.amp,
        }
        return replace(self, **{name: value for name, value in found.items() if getattr(self, name) is None})

    @property
    def works(self) -> WorkSettings:
        settled: Any = self.settled
        return WorkSettings(
            data=self.folder,
            volume_dhw=settled.volume,
            patch_size=settled.patch_size,
            channels=settled.channels,
            classes=settled.classes,
            cases=self.cases,
            batch_size=self.batch_size,
            dim=self.dim,
            amp=settled.amp,
            device_id=self.device_id,
        )

    @property
    def gate(self) -> Gate:
        """Of the revision that --against names."""
        assert self.against is not None
        return Gate(
            revision=self.against,
            max_regression=self.max_regression,
            rounds=self.rounds or 3,
            parts=self.parts,
            device_id=self.device_id,
        )


def run(settings: MeasureSettings, extra: Sequence[str] = ()) -> Results:
    """The results of a mode; ``extra`` are arguments of main.py for train and predict."""
    if settings.mode in ("train", "predict"):
        return through_main(settings, extra)
    if settings.mode == "check":
        return check(settings)
    return measure(settings)


def measure(settings: MeasureSettings) -> Results:
    """Repeat one part's work in this process."""
    mode = settings.mode
    with WORKS[mode](settings.works) as work:
        timing = repeat(work, warmup=settings.warmup, repeats=settings.batches - settings.warmup)
    results = latencies(mode, timing.seconds, items=work.items, unit=work.unit)
    if settings.device_id is None:
        rate = work.items * len(timing.seconds) / timing.cpu_seconds
        results[f"{mode}_per_core"] = Metric(value=rate, unit=f"{work.unit}/CPU s", better="higher")
    if mode == "loader" and settings.folder is None and settings.dim == 3:
        results |= beside_whole_volumes(settings)
    if mode == "genesis":
        loops = genesis.run(genesis.GenesisBenchmark(patch_size=settings.works.patch_size, repeats=10))
        results["genesis_speedup"] = Metric(value=loops["pair"]["ratio"], unit="times the loops", better="higher")
    logger = RunLogger(settings.results / settings.logname)
    logger.log(step="PARAMETER", data=as_json(settings.settled))
    log_results(logger, results)
    return results


def beside_whole_volumes(settings: MeasureSettings) -> Results:
    """The loader beside a pipeline that reads whole volumes, and on the CPU what each effect costs."""
    sizes = loader.LoaderBenchmark(
        patch_size=settings.works.patch_size,
        volume_dhw=settings.works.volume_dhw,
        batch_size=settings.batch_size,
        device_id=settings.device_id,
    )
    speedup = loader.run(sizes)["speedup"]
    results = {"loader_speedup": Metric(value=speedup, unit="times a whole-volume pipeline", better="higher")}
    if sizes.device_id is None:  # what a GPU does is not in its process's time
        for name, cost in loader.effects(sizes).items():
            results[f"loader_{name}"] = Metric(value=cost, unit="CPU ms a sample", better="lower")
    return results


def log_results(logger: RunLogger, results: Results) -> None:
    for name, metric in results.items():
        logger.metadata(name, {"unit": metric.unit, "format": ":.2f"})
    logger.log(step=(), data={name: metric.value for name, metric in results.items()})


def check(settings: MeasureSettings) -> Results:
    """The fastest time of a small piece of each part: what other work on the machine disturbs least."""
    results = {}
    small = settings_of(WorkSettings, small_sizes(settings.device_id))
    for part in settings.parts:
        with WORKS[part](small) as work:
            seconds = repeat(work, warmup=3, repeats=24).seconds
        value = 1000 * min(seconds) / work.items
        results[f"{part}_ms"] = Metric(value=value, unit="ms", better="lower")
        print(f"{part}: {value:.3f} ms", flush=True)
    return results


def through_main(settings: MeasureSettings, extra: Sequence[str]) -> Results:
    """``main.py --benchmark`` on the given folder, or on made-up scans."""
    given = settings.folder
    with nullcontext((given, None)) if given else preprocessed(settings.works) as (folder, _):
        flags: dict[str, Any] = {
            "exec_mode": settings.mode,
            "data": folder,
            "nodes": settings.nodes,
            "dim": settings.dim,
            "batch_size": settings.batch_size,
            f"{'train' if settings.mode == 'train' else 'test'}_batches": settings.batches,
            "warmup": settings.warmup,
            "layout": "NDHWC" if settings.dim == 3 else "NCDHW",
        }
        if settings.gpus is not None:
            flags["gpus"] = settings.gpus
        if settings.dim == 2:
            flags["nvol"] = 1
        return measure_main(
            settings.mode,
            flags,
            [*switches(settings.settled, ("amp",)), *extra],
            results=settings.results,
            logname=settings.logname,
            rounds=settings.rounds or 1,
        )
