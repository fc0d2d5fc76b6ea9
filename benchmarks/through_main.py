"""Training and prediction as ``main.py --benchmark`` does them, with the loader and with a constant batch in turns."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Metric, RecordError, Results
from cli.launch import as_flags, launch


def measure_main(
    mode: str, flags: Mapping[str, Any], extra: Sequence[str], *, results: Path, logname: str, rounds: int
) -> Results:
    """What ``main.py`` logs of its steps, and the loader's efficiency; medians over the rounds.

    Args:
        mode: "train" or "predict".
        flags: of main.py, by name.
        extra: further arguments of main.py.
        results: folder of its DLLogger files, ``logname`` and ``constant_<logname>``.
        rounds: runs with the loader, and with a constant batch.

    Raises:
        RecordError: where main.py fails.
    """
    real, constant = [], []
    for _ in range(rounds):
        real.append(run_main(flags, extra, results / logname))
        constant.append(run_main(flags, ["--constant_batch", *extra], results / f"constant_{logname}"))
    values = {name: statistics.median(run[name] for run in real) for name in real[0]}
    found = {name: _metric(name, value) for name, value in values.items()}
    rate, step = f"throughput_{mode}", f"latency_{mode}_50"
    free = statistics.median(run[rate] for run in constant)
    found[f"{rate}_constant"] = Metric(value=free, unit="images/s", better="higher")
    efficiency = statistics.median(b[step] / a[step] for a, b in zip(real, constant, strict=True))
    found["loader_efficiency"] = Metric(value=efficiency, unit="of a constant batch", better="higher")
    print(f"{mode}: {values[rate]:.2f} images/s, {values[f'data_wait_{mode}']:.1f} % of the time waiting for data")
    print(f"loader efficiency {efficiency:.3f} (medians; constant batch: {free:.2f} images/s)")
    return found


def _metric(name: str, value: float) -> Metric:
    unit = "images/s" if name.startswith("throughput") else "%" if "wait" in name else "ms"
    return Metric(value=value, unit=unit, better="higher" if unit == "images/s" else "lower")


def run_main(flags: Mapping[str, Any], extra: Sequence[str], log: Path) -> dict[str, float]:
    """The numbers that ``main.py --benchmark`` logs."""
    own = {**flags, "results": log.parent, "logname": log.name}
    status = launch([*as_flags(own), "--benchmark", *extra])
    if status:
        raise RecordError(f"main.py --benchmark ended with status {status}; its message is above")
    return read_numbers(log)


def read_numbers(path: Path) -> dict[str, float]:
    """The last record of the whole run among the DLLogger lines. Raises RecordError where there is none."""
    lines = [line.removeprefix("DLLL ") for line in path.read_text(encoding="utf-8").splitlines()]
    records = [json.loads(line) for line in lines if line]
    found = [record["data"] for record in records if record.get("type") == "LOG" and record["step"] in ([], "")]
    if not found:
        raise RecordError(f"{path} has no record of a benchmark: did main.py run its steps?")
    numbers: dict[str, float] = found[-1]
    return numbers
