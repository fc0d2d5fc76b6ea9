"""The tests that are marked ``gpu``, counted. Without a GPU they skip, and Triton's kernels are compiled for one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.report import Row

ROOT = Path(__file__).resolve().parents[3]
UNREAD = re.compile(r"^ERROR (\S+\.py)(?: - |$)", re.MULTILINE)  # a file whose imports are not here
OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
SHOWN = 10  # failures by name
MARGIN = 5  # seconds before the part's own end, so that what passed until then is counted


def rows(conditions: Conditions) -> Iterator[Row]:
    yield from counted("tests marked gpu", ["-m", "gpu", *conditions.tests], conditions)
    what = "Triton's kernels compile, without a GPU"
    if not conditions.gpu and find_spec("triton") is None:
        yield Row(part="tests", what=what, value="Triton is not installed")
    elif not conditions.gpu:
        kernels = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_triton_kernels.py"))
        yield from counted(what, ["-k", "all_kernels_compile", *kernels], conditions)


def counted(what: str, arguments: Sequence[str], conditions: Conditions) -> Iterator[Row]:
    """A row of the whole, and one for each of the first failures."""
    text, ended = run(arguments, conditions.limit - MARGIN)
    outcomes = OUTCOME.findall(text)
    count = Counter(outcome for _, outcome in outcomes)
    unread = sorted(set(UNREAD.findall(text)))
    failed = [test for test, outcome in outcomes if outcome in ("FAILED", "ERROR")]
    yield Row(
        part="tests",
        what=f"{what}: failures",
        value=len(failed),
        unit=f"of {count.total()}",
        goal=0 if outcomes else None,
        better="lower",
        note=f"{count['PASSED']} passed, {count['SKIPPED']} skipped"
        + (f"; {len(unread)} files cannot be imported here, such as {unread[0]}" if unread else ""),
    )
    for test in failed[:SHOWN]:
        yield Row(part="tests", what=test, error=reason(text, test))
    if not ended:
        yield Row(part="tests", what=what, error=f"stopped after {conditions.limit - MARGIN:.0f} s")
    elif not outcomes:
        said = text.strip().splitlines()
        yield Row(part="tests", what=what, error=f"no test ran: {said[-1] if said else 'pytest said nothing'}")


def run(arguments: Sequence[str], seconds: float) -> tuple[str, bool]:
    """What pytest says, and whether it came to its end."""
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=line", "--color=no", "-p", "no:cacheprovider"]
    command.append("--continue-on-collection-errors")
    environment = os.environ | {"PYTHONUTF8": "1", "COLUMNS": "400"}  # room for reasons
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            process.wait(timeout=seconds)
            ended = True
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = False
        said.seek(0)
        text = said.read()
    print(text[-20_000:], flush=True)
    return text, ended


def reason(text: str, test: str) -> str:
    """pytest's short reason of a failure."""
    found = re.search(rf"^(?:FAILED|ERROR) {re.escape(test)} - (.+)$", text, re.MULTILINE)
    return found.group(1)[:200] if found else "see the log"
