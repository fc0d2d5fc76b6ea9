"""The protocol of the process that does the parts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.gpu_check import parts, worker
from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.report import Row
from cases.registry import Registry


def good(conditions: Conditions) -> Iterator[Row]:
    yield Row(part="good", what="limit", value=conditions.limit)


def bad(conditions: Conditions) -> Iterator[Row]:
    yield Row(part="bad", what="before", value=1)
    raise RuntimeError("CUDA error:\nan illegal memory access\n")


def test_rows_and_errors_are_answers(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MEASURES", Registry("part", {"good": good, "bad": bad}))
    asked = [tiny.to_json(), {"part": "bad", "limit": 5}, {"part": "good", "limit": 7}]
    answers = io.StringIO()
    worker.serve([json.dumps(request) for request in asked], answers)
    found = [json.loads(text) for text in answers.getvalue().splitlines()]
    assert [next(iter(answer)) for answer in found] == ["row", "failed", "row", "done"]
    assert found[1]["failed"] == "RuntimeError: an illegal memory access"
    assert Row(**found[2]["row"]) == Row(part="good", what="limit", value=7)


def test_what_the_loaders_processes_import_again_is_light() -> None:
    heavy = "{'torch', 'numpy', 'pytorch_lightning', 'nvidia.dali'}"
    code = f"import sys, benchmarks.gpu_check.worker; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[]\n"


def test_the_last_line_of_an_error() -> None:
    assert worker.last_line(ValueError()) == "ValueError"
    assert worker.last_line(ValueError("a\nb" + 300 * "c")) == "ValueError: b" + 199 * "c"
