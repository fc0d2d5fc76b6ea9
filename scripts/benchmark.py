"""Throughput and latency of each part of the program; flags of main.py follow after ``--``.

python scripts/benchmark.py --mode train --gpus 1 --dim 3 --batch_size 2 --amp
python scripts/benchmark.py --mode loader --patch_size 128 128 128 --volume 200 362 362
python scripts/benchmark.py --against HEAD~1

train and predict run main.py --benchmark twice, with the loader and with a constant batch on the device, whose
ratio is the loader's efficiency. Without --data, each mode makes up data in a temporary folder. Results: DLLogger
lines in --results/--logname, and benchmark_<mode>.json with machine, versions, settings and numbers.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import genesis as benchmark_genesis
from benchmarks import loader as benchmark_loader
from benchmarks.against import Gate, gate
from benchmarks.record import Metric, RecordError, Results, latencies, write_record
from benchmarks.works import WORKS, WorkSettings, preprocessed, repeat
from runtime.dllogger_backend import RunLogger
from scripts.launch import launch, split_at_dashes, switches
from settings import SettingsError, as_json, parse, preprocessed_folder, run_command, setting

CHECKED = tuple(WORKS)
SMALL = WorkSettings(volume_dhw=(48, 56, 52), patch_size=(32, 40, 48), cases=4, amp=True, filters=(8, 16, 32))


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """``scripts/benchmark.py``."""

    mode: Literal["train", "predict", "loader", "preprocess", "genesis", "inference", "check"] = setting(
        "train", "what to measure; check: a small piece of each part, as --against compares it"
    )
    gpus: int | None = setting(None, "GPUs a node; 0 runs on the CPU; None: 1 where there is one")
    nodes: int = setting(1, "nodes")
    dim: Literal[2, 3] = setting(3, "dimensions of the network")
    batch_size: int = setting(2, "patches at once")
    amp: bool = setting(False, "mixed precision")
    train_batches: int = setting(200, "steps measured by train, loader and genesis, warm-up included")
    test_batches: int = setting(200, "batches (predict) or cases (preprocess, inference), warm-up included")
    warmup: int = setting(100, "first steps left out")
    logname: str = setting("perf.json", "name of the DLLogger file in --results")
    data: Path | None = setting(None, "preprocessed folder, for preprocess a dataset's; None: made-up scans")
    task: str | None = setting(None, "task number, whose preprocessed folder lies below /data")
    results: Path = setting(Path("results"), "where results go")
    volume: tuple[int, ...] = setting((96, 112, 104), "sides of made-up scans, D H W")
    patch_size: tuple[int, ...] = setting((64, 64, 64), "of made-up data, D H W")
    cases: int = setting(8, "made-up scans")
    parts: tuple[Literal["loader", "preprocess", "genesis", "inference", "step"], ...] = setting(
        CHECKED,
        "of check and --against",
    )
    against: str | None = setting(None, "git revision to compare with, both measured now, turn by turn")
    rounds: int | None = setting(None, "turns of each revision (None: 3), or of real and constant batch (None: 1)")
    max_regression: str = setting("60%", "the most that a part may be slower than in --against")

    def __post_init__(self) -> None:
        faults = []
        if len(self.volume) != 3 or len(self.patch_size) != 3:
            faults.append("--volume and --patch_size have three sides")
        for name in ("batch_size", "train_batches", "test_batches", "rounds", "nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                faults.append(f"--{name} {value} is below 1")
        batches = self.train_batches if self.mode in ("train", "loader", "genesis") else self.test_batches
        if self.mode != "check" and self.against is None and self.warmup >= batches:
            faults.append(f"{batches} batches leave nothing to measure after --warmup {self.warmup}")
        if self.mode in ("train", "predict") and self.cases < 5:
            faults.append(f"--cases {self.cases}: five folds need as many cases")
        if faults:
            raise SettingsError("; ".join(faults))

    @property
    def folder(self) -> Path | None:
        """Of the given data."""
        if self.data is None and self.task is not None:
            return preprocessed_folder(Path("/data"), self.task, self.dim)
        return self.data

    @property
    def works(self) -> WorkSettings:
        gpus = min(torch.cuda.device_count(), 1) if self.gpus is None else self.gpus
        return WorkSettings(
            data=self.folder,
            volume_dhw=self.volume,  # type: ignore[arg-type]
            patch_size=self.patch_size,  # type: ignore[arg-type]
            cases=self.cases,
            batch_size=self.batch_size,
            dim=self.dim,
            amp=self.amp,
            device_id=0 if gpus else None,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where main.py failed or a part has become slower than --max_regression lets."""
    own, extra = split_at_dashes(sys.argv[1:] if argv is None else argv)
    settings = parse(BenchmarkSettings, own, (__doc__ or "").split("\n")[0])
    if settings.against is not None:
        return gate(Gate(settings.against, settings.max_regression, settings.rounds or 3, settings.parts))
    if settings.mode in ("train", "predict"):
        results = through_main(settings, extra)
    elif settings.mode == "check":
        results = check(settings)
    else:
        results = measure(settings)
    write_record(settings.results / f"benchmark_{settings.mode}.json", as_json(settings) | {"flags": extra}, results)
    return 0


def measure(settings: BenchmarkSettings) -> Results:
    """Repeat one part's work in this process."""
    mode = settings.mode
    batches = settings.train_batches if mode in ("loader", "genesis") else settings.test_batches
    with WORKS[mode](settings.works) as work:
        timing = repeat(work, warmup=settings.warmup, repeats=batches - settings.warmup)
    results = latencies(mode, timing.seconds, items=work.items, unit=work.unit)
    if settings.works.device_id is None:
        rate = work.items * len(timing.seconds) / timing.cpu_seconds
        results[f"{mode}_per_core"] = Metric(value=rate, unit=f"{work.unit}/CPU s", better="higher")
    if mode == "loader" and settings.folder is None and settings.dim == 3:
        sizes = benchmark_loader.LoaderBenchmark(
            patch_size=settings.works.patch_size,
            volume_dhw=settings.works.volume_dhw,
            batch_size=settings.batch_size,
            device_id=settings.works.device_id,
        )
        found = benchmark_loader.run(sizes)
        results["loader_speedup"] = Metric(
            value=found["speedup"], unit="times a whole-volume pipeline", better="higher"
        )
        if sizes.device_id is None:  # what a GPU does is not in its process's time
            for name, cost in benchmark_loader.effects(sizes).items():
                results[f"loader_{name}"] = Metric(value=cost, unit="CPU ms a sample", better="lower")
    if mode == "genesis":
        loops: dict[str, Any] = benchmark_genesis.run(patch_size=settings.patch_size, repeats=10)
        results["genesis_speedup"] = Metric(value=loops["pair"]["ratio"], unit="times the loops", better="higher")
    logger = RunLogger(settings.results / settings.logname)
    logger.log(step="PARAMETER", data=as_json(settings))
    log_results(logger, results)
    return results


def log_results(logger: RunLogger, results: Results) -> None:
    for name, metric in results.items():
        logger.metadata(name, {"unit": metric.unit, "format": ":.2f"})
    logger.log(step=(), data={name: metric.value for name, metric in results.items()})


def check(settings: BenchmarkSettings) -> Results:
    """The fastest time of a small piece of each part: what other work on the machine disturbs least."""
    results = {}
    small = replace(SMALL, device_id=settings.works.device_id)
    for part in settings.parts:
        with WORKS[part](small) as work:
            seconds = repeat(work, warmup=3, repeats=24).seconds
        value = 1000 * min(seconds) / work.items
        results[f"{part}_ms"] = Metric(value=value, unit="ms", better="lower")
        print(f"{part}: {value:.3f} ms", flush=True)
    return results


def through_main(settings: BenchmarkSettings, extra: Sequence[str]) -> Results:
    """``main.py --benchmark`` with the loader and with a constant batch, in turns; medians over the turns."""
    given = settings.folder
    source: AbstractContextManager[Any] = nullcontext((given, None)) if given else preprocessed(settings.works)
    real, constant = [], []
    with source as (folder, _):
        for _ in range(settings.rounds or 1):
            real.append(run_main(settings, folder, settings.logname, extra))
            constant.append(run_main(settings, folder, f"constant_{settings.logname}", ["--constant_batch", *extra]))
    mode = settings.mode
    values = {name: statistics.median(run[name] for run in real) for name in real[0]}
    results = {}
    for name, value in values.items():
        unit = "images/s" if name.startswith("throughput") else "%" if "wait" in name else "ms"
        results[name] = Metric(value=value, unit=unit, better="higher" if unit == "images/s" else "lower")
    rate, step = f"throughput_{mode}", f"latency_{mode}_50"
    free = statistics.median(run[rate] for run in constant)
    results[f"{rate}_constant"] = Metric(value=free, unit="images/s", better="higher")
    efficiency = statistics.median(b[step] / a[step] for a, b in zip(real, constant, strict=True))
    results["loader_efficiency"] = Metric(value=efficiency, unit="of a constant batch", better="higher")
    waiting = values[f"data_wait_{mode}"]
    print(f"{mode}: {values[rate]:.2f} images/s, {waiting:.1f} % of the time waiting for data")
    print(f"loader efficiency {efficiency:.3f} (medians; constant batch: {free:.2f} images/s)")
    return results


def run_main(settings: BenchmarkSettings, folder: Path, logname: str, extra: Sequence[str]) -> dict[str, float]:
    """The numbers that ``main.py --benchmark`` logs."""
    values: dict[str, Any] = {
        "exec_mode": settings.mode,
        "data": folder,
        "results": settings.results,
        "logname": logname,
        "nodes": settings.nodes,
        "dim": settings.dim,
        "batch_size": settings.batch_size,
        "train_batches": settings.train_batches,
        "test_batches": settings.test_batches,
        "warmup": settings.warmup,
        "layout": "NDHWC" if settings.dim == 3 else "NCDHW",
    }
    if settings.gpus is not None:
        values["gpus"] = settings.gpus
    if settings.dim == 2:
        values["nvol"] = 1
    pairs = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    status = launch([*pairs, "--benchmark", *switches(settings, ("amp",)), *extra])
    if status:
        raise RecordError(f"main.py --benchmark ended with status {status}; its message is above")
    return read_numbers(settings.results / logname)


def read_numbers(path: Path) -> dict[str, float]:
    """The last record of the whole run among the DLLogger lines. Raises RecordError where there is none."""
    lines = [line.removeprefix("DLLL ") for line in path.read_text(encoding="utf-8").splitlines()]
    records = [json.loads(line) for line in lines if line]
    found = [record["data"] for record in records if record.get("type") == "LOG" and record["step"] in ([], "")]
    if not found:
        raise RecordError(f"{path} has no record of a benchmark: did main.py run its steps?")
    numbers: dict[str, float] = found[-1]
    return numbers


if __name__ == "__main__":
    run_command(main)
