"""What a benchmark leaves behind: one JSON file of machine, versions, settings and results.

``{"machine": {...}, "versions": {...}, "settings": {...}, "results": {name: {"value", "unit", "better"}}}``
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from cases.files import write_json
from runtime.latency import latency_units, summarise_latencies

PACKAGES = ("torch", "pytorch-lightning", "numpy", "numba", "monai", "scikit-image")
DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110")
CPU_NAMES = Path("/proc/cpuinfo")


class RecordError(ValueError):
    """A benchmark's file that cannot be read or compared."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One result; ``better`` says which way is an improvement."""

    value: float
    unit: str
    better: Literal["higher", "lower"]


Results = dict[str, Metric]


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the program."""
    named = [line for line in _lines(CPU_NAMES) if line.startswith("model name")]
    return {
        "cpu": named[0].split(":", 1)[1].strip() if named else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": platform.platform(),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def versions() -> dict[str, str]:
    """Of Python, and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *DALI):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # one DALI of three is enough
    return found


def latencies(name: str, seconds: Sequence[float], *, items: int, unit: str) -> Results:
    """Throughput and latency of repeated work.

    Args:
        name: of the work, the metrics' ending.
        seconds: of each repetition, warm-up left out.
        items: done in a repetition.
        unit: what the items are called, such as "images".

    Returns:
        what :func:`runtime.latency.summarise_latencies` gives, and ``median_throughput_<name>``, items over the median
        time: what a machine does that nothing else disturbs.
    """
    if not seconds:
        raise RecordError(f"{name}: nothing was measured; lower --warmup, or raise the number of batches")
    summary, units = summarise_latencies(name, seconds, items), latency_units(name, unit)
    median = 1000 * items / summary[f"latency_{name}_50"]
    results = {key: _metric(value, units[key]) for key, value in summary.items()}
    return results | {f"median_throughput_{name}": _metric(median, f"{unit}/s")}


def _metric(value: float, unit: str) -> Metric:
    return Metric(value=value, unit=unit, better="lower" if unit == "ms" else "higher")


def write_record(path: Path, settings: Mapping[str, Any], results: Results) -> None:
    """Write the JSON file, and say where; its folder is made."""
    record = {
        "machine": machine(),
        "versions": versions(),
        "settings": dict(settings),
        "results": {name: asdict(metric) for name, metric in results.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    print(f"results for scripts/compare_benchmarks.py: {path}")


def read_record(path: Path) -> dict[str, Any]:
    """A file of :func:`write_record`, its results as :class:`Metric`.

    Raises:
        RecordError: naming the file and what is wrong with it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; write it with scripts/benchmark.py") from error
    except ValueError as error:  # DLLogger's lines, which --logname names, are not one JSON value
        raise RecordError(
            f"{path} is not what scripts/benchmark.py writes to compare: give its benchmark_<mode>.json ({error})"
        ) from error
    missing = {"machine", "versions", "settings", "results"} - set(record if isinstance(record, dict) else ())
    if missing:
        raise RecordError(f"{path} is no record of scripts/benchmark.py: it lacks {', '.join(sorted(missing))}")
    try:
        record["results"] = {name: Metric(**values) for name, values in record["results"].items()}
    except (TypeError, AttributeError) as error:
        raise RecordError(f"{path}: its results are not value, unit and better: {error}") from error
    return record
