"""A revision's side of a comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.turns import cpu_seconds

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "turns.py"
WORKS = """
import time
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class WorkSettings:
    sides: tuple[int, ...]


@contextmanager
def sleeping(settings):
    print("made", settings.sides)
    yield SimpleNamespace(step=lambda: time.sleep(0.01 * len(settings.sides)), items=4)


WORKS = {"sleep": sleeping}
"""


def test_works_of_either_place_answer_with_seconds(tmp_path: Path) -> None:
    for place in ("benchmarks/works.py", "scripts/benchmark_works.py"):
        tree = tmp_path / Path(place).stem
        (tree / place).parent.mkdir(parents=True)
        (tree / place).write_text(WORKS)
        asked = [{"sides": [2, 3]}, {"part": "sleep", "warmup": 1, "repeats": 2}]
        run = subprocess.run(
            [sys.executable, "-P", str(PROGRAM)],
            cwd=tree,
            env={"PYTHONPATH": str(tree)},
            input="".join(json.dumps(request) + "\n" for request in asked),
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        parts, answer = map(json.loads, run.stdout.splitlines())
        assert parts == {"parts": ["sleep"]}
        assert answer["items"] == 4 and len(answer["seconds"]) == 2 and min(answer["seconds"]) >= 0.02
        assert run.stderr == "made (2, 3)\n"


def test_nothing_of_ours_is_imported_but_the_works() -> None:
    code = (
        "import sys, benchmarks.turns; print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'numpy'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=PROGRAM.parents[1], capture_output=True, encoding="utf-8")
    assert run.stdout == "[]\n"


def test_cpu_seconds_count_this_process() -> None:
    before = cpu_seconds()
    total = sum(i * i for i in range(300_000))
    assert total > 0
    assert cpu_seconds() > before
