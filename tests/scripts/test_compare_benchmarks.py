"""Two records are compared metric by metric, and only where that means something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.record import Metric, RecordError, write_record
from scripts import compare_benchmarks


def record(
    path: Path, *, rate: float = 100.0, latency: float = 10.0, batch_size: int = 2, unit: str = "ms", wait: float = 0
) -> Path:
    results = {
        "throughput": Metric(value=rate, unit="images/s", better="higher"),
        "latency": Metric(value=latency, unit=unit, better="lower"),
        "wait": Metric(value=wait, unit="%", better="lower"),
    }
    write_record(path, {"mode": "train", "batch_size": batch_size}, results)
    return path


def compare(*arguments: object) -> int:
    return compare_benchmarks.main([str(argument) for argument in arguments])


def test_a_regression_beyond_the_limit_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = record(tmp_path / "a.json")
    assert compare(before, record(tmp_path / "b.json", rate=92, latency=10.9)) == 0
    assert compare(before, record(tmp_path / "b.json", latency=11.2)) == 1
    assert "worse by more than 10 %: latency" in capsys.readouterr().out
    assert compare(before, record(tmp_path / "b.json", rate=90)) == 1
    assert "throughput" in capsys.readouterr().out
    assert compare(before, record(tmp_path / "b.json", rate=90), "--max_regression", "12%") == 0
    assert compare(before, record(tmp_path / "b.json", rate=300, latency=1), "--max_regression", "0") == 0


def test_percentages_are_compared_by_their_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = record(tmp_path / "a.json", wait=0)
    assert compare(before, record(tmp_path / "b.json", wait=9)) == 0
    assert compare(before, record(tmp_path / "b.json", wait=11)) == 1
    assert "worse by more than 10 %: wait" in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    before = record(tmp_path / "a.json")
    with pytest.raises(RecordError, match=r"batch_size 2, .*b\.json with 4: not comparable"):
        compare(before, record(tmp_path / "b.json", batch_size=4))
    with pytest.raises(RecordError, match=r"latency: ms \(lower is better\) against s"):
        compare(before, record(tmp_path / "b.json", unit="s"))
    with pytest.raises(RecordError, match="neither a percentage"):
        compare(before, before, "--max_regression", "much")
    with pytest.raises(RecordError, match="below 0"):
        compare(before, before, "--max_regression=-3%")
    with pytest.raises(RecordError, match=r"c.json: No such file"):
        compare(before, tmp_path / "c.json")
    (tmp_path / "c.json").write_text("DLLL {}\nDLLL {}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"give its benchmark_<mode>\.json"):
        compare(before, tmp_path / "c.json")
    (tmp_path / "c.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecordError, match=r"c.json is no record .* it lacks machine"):
        compare(before, tmp_path / "c.json")


def test_another_machine_is_refused(tmp_path: Path) -> None:
    before, after = record(tmp_path / "a.json"), record(tmp_path / "b.json")
    values = json.loads(after.read_text(encoding="utf-8"))
    values["machine"]["cpu"] = "another"
    after.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(RecordError, match="on another: measure both on one machine"):
        compare(before, after)


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    write_record(tmp_path / "b.json", {"mode": "train", "batch_size": 2}, {})
    with pytest.raises(RecordError, match="no result in common"):
        compare(record(tmp_path / "a.json"), tmp_path / "b.json")
