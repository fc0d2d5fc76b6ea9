"""The budget, by a clock that is ours, and what a failure costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import PARTS, Part
from benchmarks.gpu_check.report import Report, Row
from benchmarks.gpu_check.schedule import PartError, PartTimeout, ProcessWorker, line, run_parts


class Made:
    """Workers whose parts take as long as they are told, on a clock of theirs."""

    def __init__(self, takes: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.takes, self.failing = takes, failing
        self.now = 100.0
        self.started = self.stopped = 0
        self.ran: list[str] = []
        self.limits: dict[str, float] = {}
        self.saved: list[int] = []
        self.said: list[str] = []

    def start(self) -> Made:
        self.started += 1
        self.now += 10
        return self

    def stop(self) -> None:
        self.stopped += 1

    def run(self, part: str, limit: float) -> Iterator[Row]:
        self.ran.append(part)
        self.limits[part] = limit
        yield Row(part=part, what="first", value=1.0)
        self.now += self.takes[part]
        if part in self.failing:
            raise PartError("OutOfMemoryError: 3 GiB")
        yield Row(part=part, what="last", value=2.0)

    def check(self, seconds: float, *, gpu: bool = True) -> Report:
        report = Report(gpu="H200" if gpu else None)
        parts = [
            Part(name=name, rank=rank, seconds=60, cpu_seconds=6, help="of a test")
            for name, rank in (("c", 2), ("a", 0), ("b", 1))
        ]
        run_parts(
            parts,
            report,
            seconds,
            self.start,
            gpu=gpu,
            save=lambda: self.saved.append(len(report.rows)),
            say=self.said.append,
            clock=lambda: self.now,
        )
        return report


def test_parts_run_by_rank_in_one_worker_and_are_saved_one_by_one() -> None:
    made = Made({"a": 50, "b": 50, "c": 50})
    report = made.check(600)
    assert made.ran == ["a", "b", "c"]
    assert (made.started, made.stopped) == (1, 1)
    assert made.saved == [2, 4, 6]
    assert report.seconds == 160
    assert report.parts["a"] == {"state": "done", "seconds": 60.0, "why": ""}
    assert report.status == 0


def test_a_part_that_no_longer_fits_is_skipped_and_that_is_said() -> None:
    made = Made({"a": 100, "b": 50, "c": 50})
    report = made.check(165)
    assert made.ran == ["a"]
    assert made.limits["a"] == 165  # and not 3 * 60 + 30
    assert "b: skipped, 55 s are left, and it takes about 60 s" in made.said
    assert [report.parts[name]["state"] for name in "abc"] == ["done", "skipped", "skipped"]
    assert report.status == 4


def test_without_a_gpu_parts_take_less() -> None:
    made = Made({"a": 5, "b": 5, "c": 5})
    report = made.check(27, gpu=False)
    assert made.ran == ["a", "b", "c"]
    assert report.status == 3


def test_a_failure_costs_the_rest_of_its_part_and_a_worker() -> None:
    made = Made({"a": 5, "b": 5, "c": 5}, failing=("a",))
    report = made.check(600)
    assert made.ran == ["a", "b", "c"]
    assert (made.started, made.stopped) == (2, 2)
    assert [(row.part, row.what) for row in report.rows][:3] == [
        ("a", "first"),
        ("a", "the rest of this part"),
        ("b", "first"),
    ]
    assert report.rows[1].error == "OutOfMemoryError: 3 GiB"
    assert report.status == 1


@pytest.mark.parametrize(("seconds", "state", "status"), [(600, "failed", 1), (100, "skipped", 4)])
def test_a_part_that_is_stopped_failed_unless_no_time_was_left(seconds: float, state: str, status: int) -> None:
    made = Made({"a": 90, "b": 5, "c": 5})

    def hanging(part: str, limit: float) -> Iterator[Row]:
        made.now += limit
        raise PartTimeout(f"stopped after {limit:.0f} s")
        yield

    made.run = hanging  # type: ignore[method-assign]
    report = made.check(seconds)
    assert report.parts["a"]["state"] == state
    assert report.parts["a"]["why"].startswith(f"stopped after {min(seconds, 210)} s")
    assert report.status == status


def test_an_interruption_stops_the_worker() -> None:
    made = Made({"a": 5, "b": 5, "c": 5})

    def interrupted(part: str, limit: float) -> Iterator[Row]:
        raise KeyboardInterrupt
        yield

    made.run = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        made.check(600)
    assert made.stopped == 1


def test_a_row_in_words() -> None:
    assert line(Row(part="a", what="training", value=110.0, unit="images/s", goal=100)) == (
        "training: 110 images/s (goal 100: met)"
    )
    assert line(Row(part="a", what="GPU", value="H200")) == "GPU: H200"
    assert line(Row(part="a", what="training", error="no memory")) == "training: no memory"


def test_a_process_answers_and_fails_by_its_last_line(tiny: Conditions, tmp_path: Path) -> None:
    log = tmp_path / "log" / "check.log"
    worker = ProcessWorker(tiny, log)
    try:
        rows = list(worker.run("machine", 120))
        assert [row.what for row in rows][:2] == ["GPU", "python"]
        with pytest.raises(PartError, match="part of the check 'lunch' is none of machine"):
            list(worker.run("lunch", 60))
        with pytest.raises(PartError, match="stopped after 0 s"):
            list(worker.run("machine", 0))
        worker._process.kill()
        with pytest.raises(PartError, match=r"its process ended with -9: .*lunch"):
            while list(worker.run("machine", 10)):  # what it had still said
                pass
    finally:
        worker.stop()
    assert "RegistryError" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(PARTS))
def test_every_part_has_a_place(name: str, request: Any) -> None:
    assert sorted(part.rank for part in PARTS.values()) == list(range(len(PARTS)))
    assert PARTS[name].cpu_seconds < PARTS[name].seconds


def test_a_check_of_all_parts_fits_ten_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) + 30 < 600
    assert sum(part.cpu_seconds for part in PARTS.values()) < 120
