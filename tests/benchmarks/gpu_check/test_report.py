"""Rows beside their goals, the exit status that they come to, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check.report import Report, ReportError, Row


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({"value": 110.0, "goal": 110.0}, "met"),
        ({"value": 109.9, "goal": 110.0}, "missed"),
        ({"value": 0, "goal": 0, "better": "lower"}, "met"),
        ({"value": 1, "goal": 0, "better": "lower"}, "missed"),
        ({"value": 5.0}, ""),
        ({"value": "H200"}, ""),
        ({"error": "OutOfMemoryError: 2 GiB"}, "failed"),
    ],
)
def test_verdict(values: dict[str, Any], verdict: str) -> None:
    assert Row(part="speed", what="training", **values).verdict == verdict


MET, MISSED = Row(part="speed", what="a", value=2, goal=1), Row(part="speed", what="a", value=1, goal=2)


@pytest.mark.parametrize(
    ("gpu", "rows", "ended", "status"),
    [
        ("H200", [MET], "done", 0),
        ("H200", [MISSED], "done", 1),
        ("H200", [MET], "failed", 1),
        ("H200", [MET], "skipped", 4),
        ("H200", [MISSED], "skipped", 1),
        (None, [MET], "done", 3),
        (None, [MET], "skipped", 3),
        (None, [], "failed", 1),
    ],
)
def test_exit_status(gpu: str | None, rows: list[Row], ended: Any, status: int) -> None:
    report = Report(gpu=gpu, rows=list(rows))
    report.end("speed", ended, 3.0, "" if ended == "done" else "why")
    assert report.status == status


def test_the_summary_counts() -> None:
    report = Report(gpu=None, rows=[MET, MISSED, MISSED], seconds=12.4)
    report.end("loader", "skipped", why="3 s are left")
    report.end("genesis", "failed", why="RuntimeError: no")
    assert report.summary() == (
        "1 of 3 goals met; 1 failures; no time for loader; no GPU here: nothing above says how fast one is; 12 s"
    )
    assert report.rows[-1] == Row(part="genesis", what="the rest of this part", error="RuntimeError: no")


def test_a_file_gives_the_same_report_back(tmp_path: Path) -> None:
    report = Report(gpu="H200", started="today", revision="abc", seconds=3, rows=[MET])
    report.end("speed", "done", 2.04)
    report.save(tmp_path / "new" / "h200.json")
    assert Report.load(tmp_path / "new" / "h200.json") == report
    with pytest.raises(ReportError, match=r"none.json: No such file"):
        Report.load(tmp_path / "none.json")
    for text in ("{", "[]", '{"rows": [{"part": 1}]}', '{"rows": [], "more": 1}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ReportError, match=r"bad.json is no report"):
            Report.load(tmp_path / "bad.json")
