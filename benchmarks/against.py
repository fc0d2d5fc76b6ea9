"""Is this version slower than an earlier one? Both are measured now, on this machine, turn by turn.

A shared machine's speed changes by the minute, so that numbers of another day say nothing. In every round each
version has a process of its own, in which ``benchmarks/turns.py`` does that version's works; for each part the two
take turns of a few repetitions. A part is called slower only where both the median of the rounds' ratios and the
ratio of each version's best time say so: a true loss shows in both, what else runs on the machine seldom does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from benchmarks.compare import Change, changes, share, show
from benchmarks.record import Metric, RecordError, Results
from benchmarks.turns import WORKS
from runtime.devices import cpu_has_bf16

ROOT = Path(__file__).resolve().parents[1]
TURNS = Path("benchmarks/turns.py")
WARMUP, REPEATS, TURNS_A_ROUND = 3, 6, 4
SIZES: dict[str, Any] = {  # of a small piece of each part, fields of benchmarks.works.WorkSettings
    "volume_dhw": [48, 56, 52],
    "patch_size": [32, 40, 48],
    "cases": 4,
    "filters": [8, 16, 32],
}


def small_sizes(device_id: int | None) -> dict[str, Any]:
    """The sizes on this machine: mixed precision only where the processor has it."""
    return SIZES | {"amp": device_id is not None or cpu_has_bf16(), "device_id": device_id}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What to compare with, and how strictly.

    Attributes:
        revision: that git knows.
        max_regression: the most that a part may be slower.
        rounds: each with fresh processes.
        parts: none: all that both revisions have.
        device_id: the GPU; None for the CPU.
    """

    revision: str
    max_regression: str = "60%"
    rounds: int = 3
    parts: Sequence[str] = ()
    device_id: int | None = None


def gate(wanted: Gate, root: Path = ROOT) -> int:
    """1 where a part of ``root`` is slower than in the revision by more than the limit, else 0."""
    limit = share(wanted.max_regression)
    if git(root, "rev-parse", "--verify", "--quiet", f"{wanted.revision}^{{commit}}").returncode:
        print(f"no revision {wanted.revision} here: nothing to compare with")
        return 0
    if all(git(root, "cat-file", "-e", f"{wanted.revision}:{place}").returncode for place in WORKS):
        print(f"{wanted.revision} has no such benchmark yet: nothing to compare with")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        added = git(root, "worktree", "add", "--detach", str(tree), wanted.revision)
        if added.returncode:
            raise RecordError(f"git worktree add {wanted.revision}: {added.stderr.strip()}")
        try:
            found = interleave(tree, root, wanted)
        finally:
            git(root, "worktree", "remove", "--force", str(tree))
    return show(found, limit, (wanted.revision, "now"))


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    except FileNotFoundError as error:
        raise RecordError("git is not installed: --against needs it") from error


def interleave(before: Path, after: Path, wanted: Gate) -> list[Change]:
    """Measure two trees in turns; a change is the smaller one of the two said above."""
    rounds = [one_round(before, after, wanted, number) for number in range(wanted.rounds)]
    return [_together(same) for same in zip(*rounds, strict=True)]


def one_round(before: Path, after: Path, wanted: Gate, number: int) -> list[Change]:
    """Fresh processes of both; of each part the best time (A, B, B, A, ...)."""
    with Side(before, wanted.device_id) as old, Side(after, wanted.device_id) as new:
        results: dict[Side, Results] = {old: {}, new: {}}
        for part in shared_parts(old, new, wanted.parts, say=number == 0):
            seconds: dict[Side, list[float]] = {old: [], new: []}
            for turn in range(TURNS_A_ROUND):
                for side in (old, new) if (number + turn) % 2 == 0 else (new, old):
                    seconds[side] += side.measure(part, warmup=0 if turn else WARMUP)
            for side, values in seconds.items():
                results[side][f"{part}_ms"] = Metric(value=1000 * min(values), unit="ms", better="lower")
            times = " and ".join(f"{results[side][f'{part}_ms'].value:.3f} ms" for side in (old, new))
            print(f"round {number + 1} of {wanted.rounds}: {part}: {times} now", flush=True)
    return changes(results[old], results[new])


def shared_parts(old: Side, new: Side, asked: Sequence[str], *, say: bool) -> list[str]:
    """The parts that are asked for, as far as both revisions have them. Raises RecordError where none is left."""
    asked = asked or new.parts
    both = [part for part in asked if part in old.parts and part in new.parts]
    if not both:
        raise RecordError(f"none of {', '.join(asked)} is in both revisions: nothing to compare")
    if say and (rest := [part for part in asked if part not in both]):
        print(f"not compared, as only one of the revisions has it: {', '.join(rest)}")
    return both


def _together(same: Sequence[Change]) -> Change:
    """One metric's rounds as one change."""
    best_before, best_after = min(change.before for change in same), min(change.after for change in same)
    median = statistics.median(change.worse for change in same)
    return replace(same[0], before=best_before, after=best_after, worse=min(median, best_after / best_before - 1))


@dataclass(eq=False)
class Side(AbstractContextManager["Side"]):
    """A process that does a tree's works on request: the other end of ``benchmarks/turns.py``.

    Attributes:
        parts: that the tree has.
    """

    tree: Path
    device_id: int | None = None
    parts: list[str] = field(default_factory=list)

    def __enter__(self) -> Side:
        program = self.tree / TURNS  # its own, or ours where it is older than that
        command = [sys.executable, "-P", str(program if program.is_file() else ROOT / TURNS)]
        paths = [str(self.tree), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            command,
            cwd=self.tree,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        try:
            self.parts = self._ask(small_sizes(self.device_id))["parts"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """The process ends, and tidies up, when nothing more can be asked."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it may have ended before it read what was said last
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def measure(self, part: str, *, warmup: int) -> list[float]:
        """Seconds per item of each repetition."""
        answer = self._ask({"part": part, "warmup": warmup, "repeats": REPEATS})
        return [seconds / answer["items"] for seconds in answer["seconds"]]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises RecordError with the last line of what a failing process said."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:]
        raise RecordError(f"the works of {self.tree} ended with {status}: {' '.join(last)}")
