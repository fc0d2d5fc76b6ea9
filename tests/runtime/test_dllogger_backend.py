"""Our log lines against those that DLLogger 1.1.0 wrote for the same calls."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from runtime.dllogger_backend import FILE_ONLY, PlainLogger, RunLogger

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "dllogger"
needs_parity = pytest.mark.skipif(not PARITY.is_dir(), reason=f"{PARITY} is not there")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What tools do with DLLogger's files: drop the prefix, parse the JSON."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("DLLL {") for line in lines)
    return [json.loads(line[5:]) for line in lines]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """The record's contents, once its three times were found to agree."""
    left = dict(record)
    stamp, elapsed = float(left.pop("timestamp")), float(left.pop("elapsedtime"))
    assert datetime.fromisoformat(left.pop("datetime")).timestamp() == pytest.approx(stamp, abs=1e-5)
    assert 0 <= elapsed < 60
    return left


def write_parity_run(log: RunLogger | PlainLogger, **verbosity: int) -> None:
    log.log("PARAMETER", {"task": "04", "amp": True, "learning_rate": 0.0008}, **verbosity)
    log.metadata("dice_score", {"unit": None})
    log.metadata("throughput_train", {"unit": "images/s"})
    log.metadata("latency_train_99", {"unit": "ms", "format": ":.3f"})
    log.log(0, {"Dice": 86.1, "Val Loss": 0.21}, **verbosity)
    log.log((1, 20), {"train_loss": 0.5}, **verbosity)
    log.log((), {"throughput_train": 27.48, "latency_train_99": 41.23456, "dice_score": None}, **verbosity)


@needs_parity
def test_same_records_and_terminal_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = PlainLogger(tmp_path / "logs.json", append=False)
    write_parity_run(log, verbosity=0)
    log.flush()
    expected = [without_times(record) for record in read_lines(PARITY / "run.json")]
    assert [without_times(record) for record in read_lines(tmp_path / "logs.json")] == expected
    date = re.compile(r"^DLL \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} - ")
    printed, wanted = capsys.readouterr().out.split("\n"), (PARITY / "stdout.txt").read_text().split("\n")
    assert all(date.match(line) for line in [*printed[:-1], *wanted[:-1]])
    assert [date.sub("", line) for line in printed] == [date.sub("", line) for line in wanted]


@needs_parity
def test_same_keys(tmp_path: Path) -> None:
    log = RunLogger(tmp_path / "new" / "logs.json")
    write_parity_run(log)
    ours, theirs = read_lines(tmp_path / "new" / "logs.json"), read_lines(PARITY / "run.json")
    assert [set(record) for record in ours] == [set(record) for record in theirs]


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLogger(tmp_path / "results" / "logs.json", rank=1)
    write_parity_run(log)
    log.flush()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_resumed_run_appends_after_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "logs.json"
    RunLogger(path).log(0, {"Dice": 1.0})
    with path.open("a") as stream:
        stream.write('DLLL {"timest')  # killed while writing
    RunLogger(path, append=True).log(1, {"Dice": 2.0})
    lines = path.read_text().splitlines()
    assert lines[1] == 'DLLL {"timest'
    assert [json.loads(lines[i][5:])["data"] for i in (0, 2)] == [{"Dice": 1.0}, {"Dice": 2.0}]
    RunLogger(path).log(0, {"Dice": 3.0})
    assert [record["data"] for record in read_lines(path)] == [{"Dice": 3.0}]


def test_a_resumed_run_drops_the_epochs_that_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "logs.json"
    first = RunLogger(path)
    first.log("PARAMETER", {"seed": 1})
    for epoch in range(4):
        first.log(epoch, {"Dice": 1.0})
    with path.open("a") as stream:
        stream.write('DLLL {"timest')  # killed while writing
    resumed = RunLogger(path, append=True)
    resumed.log("PARAMETER", {"seed": 1})
    resumed.drop_after(1)
    resumed.log(2, {"Dice": 2.0})
    resumed.log((), {"throughput_train": 3.0})
    lines = [line for line in path.read_text().splitlines() if line != 'DLLL {"timest']
    steps = [json.loads(line[5:])["step"] for line in lines]
    assert steps == ["PARAMETER", 0, 1, "PARAMETER", 2, []]
    assert [entry.name for entry in tmp_path.iterdir()] == ["logs.json"]
    RunLogger(path, rank=1).drop_after(0)
    assert len(path.read_text().splitlines()) == len(lines) + 1  # no other rank touches it


def test_every_line_is_on_the_disk_at_once(tmp_path: Path) -> None:
    log = RunLogger(tmp_path / "logs.json")
    for epoch in range(3):
        log.log(epoch, {"Dice": 0.5}, FILE_ONLY)
        assert len(read_lines(tmp_path / "logs.json")) == epoch + 1


def test_values_of_numpy_torch_and_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLogger(tmp_path / "logs.json")
    log.log(
        "PARAMETER", {"a": np.float32(0.5), "b": torch.tensor(2), "c": Path("x/y"), "d": (1, np.int64(2))}, FILE_ONLY
    )
    assert read_lines(tmp_path / "logs.json")[0]["data"] == {"a": 0.5, "b": 2, "c": "x/y", "d": [1, 2]}
    assert capsys.readouterr().out == ""


def test_installed_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Logger:
        def __init__(self, backends: list[Any]) -> None:
            calls.append(backends)

        def log(self, **record: Any) -> None:
            calls.append(record)

        def flush(self) -> None:
            calls.append("flush")

    package = ModuleType("dllogger")
    package.__dict__.update(
        Verbosity=SimpleNamespace(DEFAULT=0, VERBOSE=1),
        JSONStreamBackend=lambda verbosity, path, append: ("json", verbosity, path, append),
        StdOutBackend=lambda verbosity: ("stdout", verbosity),
        Logger=Logger,
    )
    monkeypatch.setitem(sys.modules, "dllogger", package)
    RunLogger(tmp_path / "logs.json", append=True).log(3, {"Dice": np.float64(0.9)})
    assert calls[0] == [("json", 1, str(tmp_path / "logs.json"), True), ("stdout", 0)]
    assert calls[1:] == [{"step": 3, "data": {"Dice": 0.9}, "verbosity": 0}, "flush"]
