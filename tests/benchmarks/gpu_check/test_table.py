"""Reports as tables."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.gpu_check.report import Report, Row
from benchmarks.gpu_check.table import NOTHING, main, show


def made(gpu: str, rate: float) -> Report:
    report = Report(gpu=gpu, started="2026-01-02", revision="abc", seconds=60)
    report.rows = [
        Row(part="speed", what="training, with the loader", value=rate, unit="images/s", goal=110, note="batch | 2"),
        Row(part="machine", what="GPU", value=gpu),
        Row(part="profile", what="copies", value=1.0, goal=0, better="lower"),
        Row(part="genesis", what="the rest of this part", error="RuntimeError: [no] kernel"),
    ]
    report.end("loader", "skipped", why="3 s are left")
    return report


def test_devices_stand_beside_each_other_and_each_has_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "h200.json", tmp_path / "a100.json"]
    for path, gpu, rate in zip(paths, ("H200", "A100"), (120.0, 61.04), strict=True):
        made(gpu, rate).save(path)
    assert main([str(path) for path in paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "| what | goal | H200 | A100 |",
        "| --- | --- | --- | --- |",
        "| training, with the loader | 110 images/s | 120 (met) | 61.04 (missed) |",
    ]
    assert "### A100" in lines
    whole = lines[lines.index("### H200") :]
    assert whole[4:9] == [
        "| part | what | found | goal | verdict | how |",
        "| --- | --- | --- | --- | --- | --- |",
        "| machine | GPU | H200 |  |  |  |",  # the table's order, not that of running
        "| speed | training, with the loader | 120 images/s | at least 110 | met | batch / 2 |",
        "| genesis | the rest of this part | RuntimeError: [no] kernel |  | failed |  |",
    ]
    assert "| profile | copies | 1 | at most 0 | missed |  |" in whole
    assert "| loader |  |  |  | skipped | 3 s are left |" in whole


def test_without_a_report_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs/gpu/*.json"]) == 0
    assert capsys.readouterr().out == f"{NOTHING}\n"


def test_the_terminal_shows_brackets_as_they_are() -> None:
    said = io.StringIO()
    show(made("H200", 120), Console(file=said, width=160))
    assert "RuntimeError: [no] kernel" in said.getvalue()
