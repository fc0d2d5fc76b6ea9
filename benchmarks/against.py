"""Is this version slower than an earlier one? Both are measured now, on this machine, turn by turn.

A shared machine's speed changes by the minute, so that numbers of another day say nothing. Each turn runs
``benchmark.py --mode check`` of either version in a process of its own. A part is called slower only where both
the median of the turns' ratios and the ratio of each version's best turn say so: a true loss shows in both, what
else runs on the machine seldom does.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.record import RecordError, Results, read_record
from scripts.compare_benchmarks import Change, changes, share, show

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path("scripts/benchmark.py")


@dataclass(frozen=True)
class Gate:
    """What to compare with, and how strictly."""

    revision: str
    max_regression: str = "60%"
    rounds: int = 3
    parts: Sequence[str] = ()


def gate(wanted: Gate, root: Path = ROOT) -> int:
    """1 where a part of ``root`` is slower than in the revision by more than the limit, else 0."""
    limit = share(wanted.max_regression)
    if git(root, "rev-parse", "--verify", "--quiet", f"{wanted.revision}^{{commit}}").returncode:
        print(f"no revision {wanted.revision} here: nothing to compare with")
        return 0
    if git(root, "cat-file", "-e", f"{wanted.revision}:scripts/benchmark_against.py").returncode:
        print(f"{wanted.revision} has no such benchmark yet: nothing to compare with")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        added = git(root, "worktree", "add", "--detach", str(tree), wanted.revision)
        if added.returncode:
            raise RecordError(f"git worktree add {wanted.revision}: {added.stderr.strip()}")
        try:
            found = interleave(tree, root, rounds=wanted.rounds, parts=wanted.parts)
        finally:
            git(root, "worktree", "remove", "--force", str(tree))
    return show(found, limit, (wanted.revision, "now"))


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    except FileNotFoundError as error:
        raise RecordError("git is not installed: --against needs it") from error


def interleave(before: Path, after: Path, *, rounds: int, parts: Sequence[str]) -> list[Change]:
    """Measure two trees in turns (A, B, B, A, ...); a change is the smaller one of the two said above."""
    turns: list[list[Change]] = []
    for number in range(rounds):
        order = (before, after) if number % 2 == 0 else (after, before)
        results = {tree: measured(tree, parts) for tree in order}
        turns.append(changes(results[before], results[after]))
    return [_together(same) for same in zip(*turns, strict=True)]


def _together(same: Sequence[Change]) -> Change:
    """One metric's turns as one change."""
    best_before, best_after = min(change.before for change in same), min(change.after for change in same)
    median = statistics.median(change.worse for change in same)
    return replace(same[0], before=best_before, after=best_after, worse=min(median, best_after / best_before - 1))


def measured(tree: Path, parts: Sequence[str]) -> Results:
    """What a tree's own benchmark says of it."""
    with tempfile.TemporaryDirectory() as temporary:
        arguments = ["--mode", "check", "--results", temporary, *(("--parts", *parts) if parts else ())]
        command = [sys.executable, str(tree / PROGRAM), *arguments]
        done = subprocess.run(command, cwd=tree, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise RecordError(f"{tree / PROGRAM} --mode check ended with {done.returncode}: {' '.join(last)}")
        results: Results = read_record(Path(temporary) / "benchmark_check.json")["results"]
        return results
