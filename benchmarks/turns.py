"""One revision's side of a comparison: it does pieces of its work when asked, and says how long each took.

``benchmarks/against.py`` starts this in a revision's folder. Both speak JSON, an object a line, on standard input and
output. The first line in is the size of the work, fields of the revision's own ``WorkSettings``; the answer lists the
parts that it has. Then

    {"part": "genesis", "warmup": 3, "repeats": 6}   is answered by   {"seconds": [0.021, ...], "items": 16}

A revision that is older than this file has its works elsewhere; this very file runs there then. So it imports nothing
of ours but the works. Whatever else a work prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

WORKS = ("benchmarks/works.py", "scripts/benchmark_works.py")  # where revisions have them, today's place first


def cpu_seconds() -> float:
    """User and system time of this process, all its threads, and its living children."""
    tick = os.sysconf("SC_CLK_TCK")
    children = 0.0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        children += (int(fields[11]) + int(fields[12])) / tick
    return time.process_time() + children


def settle(pause: float = 0.1) -> None:
    """Wait until prefetching has come to rest."""
    before = -1.0
    while cpu_seconds() - before > 0.1 * pause:
        before = cpu_seconds()
        time.sleep(pause)


def load_works() -> Any:
    """The module of works in the current folder."""
    found = next(path for path in WORKS if Path(path).is_file())
    return importlib.import_module(found.removesuffix(".py").replace("/", "."))


def settings_of(kind: Any, sizes: dict[str, Any]) -> Any:
    """The works' settings, of this class, of JSON values, in which tuples are lists."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()})


def measure(step: Callable[[], object], *, warmup: int, repeats: int) -> list[float]:
    """Seconds of each repetition after the warm-up; nothing is left running behind the last."""
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    settle()
    return seconds


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    works = load_works()
    settings = settings_of(works.WorkSettings, json.loads(sys.stdin.readline()))
    answer(parts=list(works.WORKS))
    part = None
    with ExitStack() as current:  # one work at a time: some change how PyTorch runs while they are open
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["part"] != part:
                current.close()
                part = asked["part"]
                work = current.enter_context(works.WORKS[part](settings))
            seconds = measure(work.step, warmup=asked["warmup"], repeats=asked["repeats"])
            answer(seconds=seconds, items=work.items)
    return 0


if __name__ == "__main__":
    sys.exit(main())
