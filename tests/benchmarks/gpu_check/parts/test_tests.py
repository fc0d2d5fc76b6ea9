"""Tests marked gpu are run and counted, also where some fail, hang, or cannot be imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import tests
from benchmarks.gpu_check.parts.tests import counted, reason
from benchmarks.gpu_check.report import Row

SUITE = """
import time
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("side", [1, 2])
def test_good(side): pass

@pytest.mark.gpu
def test_bad(): assert 1 == 2, "copies differ"

@pytest.mark.gpu
def test_skipped(): pytest.skip("no CUDA device")

def test_not_asked_for(): assert False

def test_hangs(): time.sleep(60)
"""


def test_failures_are_counted_and_named(tiny: Conditions, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "test_unread.py").write_text("import nothing_of_this_name")
    found = list(counted("tests", ["-m", "gpu", str(tmp_path)], tiny))
    assert (found[0].value, found[0].unit, found[0].verdict) == (1, "of 4", "missed")
    assert found[0].note.startswith("2 passed, 1 skipped; 1 files cannot be imported here, such as ")
    assert len(found) == 2
    assert found[1].what.endswith("test_suite.py::test_bad")
    assert "copies differ" in found[1].error


def test_one_that_hangs_is_stopped_and_what_passed_is_kept(tiny: Conditions, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    few = replace(tiny, limit=11.0)
    found = list(counted("tests", ["-k", "good or hangs", str(tmp_path)], few))
    assert found[0].note == "2 passed, 0 skipped"
    assert found[1].error == "stopped after 6 s"


def test_a_selection_without_tests_is_no_success(tiny: Conditions, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    found = list(counted("tests", ["-k", "nothing", str(tmp_path)], tiny))
    assert found[0].verdict == ""
    assert "no test ran" in found[1].error


def test_without_a_gpu_the_kernels_are_compiled_too(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def only_asked(what: str, arguments: list[str], conditions: Conditions) -> Iterator[Row]:
        asked.append((what, arguments))
        yield from ()

    monkeypatch.setattr(tests, "counted", only_asked)
    for known in (object(), None):
        monkeypatch.setattr(tests, "find_spec", lambda name, known=known: known)
        found = list(tests.rows(replace(tiny, tests=("here",))))
        assert [row.value for row in found] == ([] if known else ["Triton is not installed"])
    (gpu, selected), (_, compiling), (again, _) = asked
    assert gpu == again == "tests marked gpu"
    assert selected == ["-m", "gpu", "here"]
    assert compiling[:2] == ["-k", "all_kernels_compile"]
    assert len(compiling) > 3
    assert all("_all_kernels_compile" in (tests.ROOT / file).read_text(encoding="utf-8") for file in compiling[2:])


def test_a_reason_is_pytests_own() -> None:
    said = "FAILED tests/test_a.py::test_b[x-1] - RuntimeError: CUDA error\nFAILED tests/test_a.py::test_b[x-2] - other"
    assert reason(said, "tests/test_a.py::test_b[x-1]") == "RuntimeError: CUDA error"
    assert reason(said, "tests/test_a.py::test_c") == "see the log"
