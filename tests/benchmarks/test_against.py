"""The gate runs each revision's own works, wherever it has them, and sees what is slow."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.against import Gate, gate, interleave
from benchmarks.record import RecordError

ROOT = Path(__file__).resolve().parents[2]


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository of one commit."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    return folder


def test_the_gate_passes_where_there_is_nothing_to_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = repository(tmp_path / "first", {"README.md": "text"})
    assert gate(Gate(revision="HEAD~1"), root) == 0
    assert "no revision HEAD~1 here" in capsys.readouterr().out
    assert gate(Gate(revision="HEAD"), root) == 0
    assert "HEAD has no such benchmark yet" in capsys.readouterr().out


WORKS = """
import time
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class WorkSettings:
    volume_dhw: tuple
    patch_size: tuple
    cases: int
    amp: bool
    filters: tuple
    device_id: int | None


@contextmanager
def sleeping(settings):
    print("a work may print")
    yield SimpleNamespace(step=lambda: time.sleep(%s), items=1)


WORKS = {"part": sleeping}
"""
OLD, NEW = Path("scripts/benchmark_works.py"), Path("benchmarks/works.py")


def strict(max_regression: str) -> Gate:
    return Gate(revision="HEAD", max_regression=max_regression, rounds=1)


@pytest.mark.parametrize("place", [OLD, NEW])
def test_the_gate_checks_the_revision_out_and_removes_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = repository(tmp_path / "tree", {str(place): WORKS % 0.01})
    (root / place).unlink()
    (root / NEW).parent.mkdir(exist_ok=True)
    (root / NEW).write_text(WORKS % 0.014, encoding="utf-8")
    assert gate(strict("50%"), root) == 0
    assert gate(strict("30%"), root) == 1
    assert "worse by more than 30 %: part_ms" in capsys.readouterr().out
    left = subprocess.run(
        ["git", "-C", str(root), "worktree", "list"], check=True, capture_output=True, encoding="utf-8"
    )
    assert len(left.stdout.splitlines()) == 1
    (root / NEW).write_text("raise SystemExit('broken')", encoding="utf-8")
    with pytest.raises(RecordError, match=r"the works of .*tree ended with 1: broken"):
        gate(strict("30%"), root)


def test_a_work_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    root = repository(tmp_path / "tree", {str(NEW): WORKS % "'long'"})
    with pytest.raises(RecordError, match=r"tree ended with 1: TypeError: 'str' object"):
        gate(strict("30%"), root)


def test_parts_that_only_one_revision_has_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = repository(tmp_path / "tree", {str(OLD): WORKS % 0.002})
    (root / NEW).parent.mkdir()
    more = WORKS % 0.002 + "WORKS['more'] = sleeping"
    (root / NEW).write_text(more, encoding="utf-8")
    found = interleave(repository(tmp_path / "before", {str(OLD): WORKS % 0.002}), root, strict("1"))
    assert [change.name for change in found] == ["part_ms"]
    assert "only one of the revisions has it: more" in capsys.readouterr().out
    with pytest.raises(RecordError, match="none of more is in both revisions"):
        interleave(tmp_path / "before", root, Gate(revision="HEAD", rounds=1, parts=("more",)))


def test_a_slowed_path_is_seen(tmp_path: Path) -> None:
    """The real benchmark on two trees, one of which sleeps in the Genesis transformation."""
    slow = tmp_path / "slow"
    parts = shutil.ignore_patterns(".*", "__pycache__", "tests", "notebooks", "docs", "shared", "results", "data")
    shutil.copytree(ROOT, slow, ignore=parts)
    path = slow / "pretraining/genesis/sampling.py"
    path.write_text(path.read_text(encoding="utf-8") + SLEEPING, encoding="utf-8")
    (change,) = interleave(ROOT, slow, Gate(revision="", rounds=1, parts=("genesis",)))
    assert change.name == "genesis_ms"
    assert change.worse > 1  # 20 ms on top of a few; a busy machine slows both trees
    assert against.show([change], 0.3, ("before", "after")) == 1


SLEEPING = """

_unhurried = sample


def sample(*arguments, **named):
    import time

    time.sleep(0.02)
    return _unhurried(*arguments, **named)
"""
