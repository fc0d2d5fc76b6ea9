"""Which part runs when, for how long, and what its failure costs: itself alone.

The parts run one after the other in one process, whose imports and CUDA context they share. A part that fails, or takes
far longer than it should, ends that process; the next part gets a new one. Each row is kept as it comes, and the report
is written after each part.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.report import Report, Row

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 3  # times the seconds that a part takes, after which it is stopped


class PartError(ValueError):
    """A part that did not come to its end; the message is the last line of why."""


class PartTimeout(PartError):
    """A part that took longer than it might."""


class Worker(Protocol):
    """Does parts when asked."""

    def run(self, part: str, limit: float) -> Iterator[Row]:
        """The part's rows as they come. Raises PartError where it fails, PartTimeout after ``limit`` seconds."""
        ...

    def stop(self) -> None:
        """End it, and whatever it started."""
        ...


def run_parts(
    parts: Sequence[Part],
    report: Report,
    seconds: float,
    start: Callable[[], Worker],
    *,
    gpu: bool,
    save: Callable[[], object],
    say: Callable[[str], object] = print,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run parts by rank within so many seconds. A part that no longer fits is skipped, which is said.

    Args:
        parts: those wanted.
        report: takes their rows.
        start: makes a worker.
        gpu: whether it has one, on which parts take their ``seconds``.
        save: called after each part.
    """
    begin = clock()
    worker: Worker | None = None
    try:
        for part in sorted(parts, key=lambda part: part.rank):
            usual, started = part.seconds if gpu else part.cpu_seconds, clock()
            left = begin + seconds - started
            if left < usual:
                why = f"{max(left, 0):.0f} s are left, and it takes about {usual:.0f} s"
                say(f"{part.name}: skipped, {why}")
                report.end(part.name, "skipped", why=why)
            else:
                say(f"{part.name}: {part.help}")
                limit = min(left, PATIENCE * usual + 30)
                try:
                    worker = worker or start()
                    for row in worker.run(part.name, limit):
                        report.rows.append(row)
                        say(f"  {line(row)}")
                    report.end(part.name, "done", clock() - started)
                except PartError as error:
                    all_of_it = isinstance(error, PartTimeout) and limit == left
                    why = f"{error}, as no time was left" if all_of_it else str(error)
                    say(f"  {part.name}: {why}")
                    report.end(part.name, "skipped" if all_of_it else "failed", clock() - started, why)
                    if worker:
                        worker.stop()
                    worker = None
            report.seconds = clock() - begin
            save()
    finally:
        if worker:
            worker.stop()


def line(row: Row) -> str:
    """A row on one line."""
    if row.error:
        return f"{row.what}: {row.error}"
    value = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
    goal = "" if row.goal is None else f" (goal {row.goal:g}: {row.verdict})"
    return f"{row.what}: {value} {row.unit}".rstrip() + goal


class ProcessWorker:
    """``worker.py`` in a process, and a process group, of its own.

    Args:
        conditions: of the parts.
        log: what the parts and their libraries print goes there.
    """

    def __init__(self, conditions: Conditions, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("a", encoding="utf-8") as errors:
            self._start = errors.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu_check.worker"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                start_new_session=True,  # so that the loader's processes and pytest end with it
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        self._ask(conditions.to_json())

    def run(self, part: str, limit: float) -> Iterator[Row]:
        deadline = time.monotonic() + limit
        self._ask({"part": part, "limit": limit})
        while True:
            try:
                text = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise PartTimeout(f"stopped after {limit:.0f} s") from None
            if not text:
                raise PartError(self._last_line())
            answer: dict[str, Any] = json.loads(text)
            if "row" in answer:
                yield Row(**answer["row"])
            elif "failed" in answer:
                raise PartError(answer["failed"])
            else:
                return

    def stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        with suppress(ProcessLookupError):  # it, and all that it started, may be gone
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then its answer is its end
            print(json.dumps(request), file=self._process.stdin, flush=True)

    def _read(self, answers: IO[str]) -> None:
        with answers:
            for text in answers:
                self._answers.put(text)
        self._answers.put("")

    def _last_line(self) -> str:
        status = self._process.wait()
        with self._log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._start)
            said = log.read().strip().splitlines()
        return f"its process ended with {status}: {said[-1] if said else 'without a word'}"
