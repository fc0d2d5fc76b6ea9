"""Sliding windows: memory and time of ours beside MONAI's, each run in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.comparison import Comparison, compare, whole_eighths
from benchmarks.record import RecordError

PROGRAM = "benchmarks.peers.one_window"
ROOT = Path(__file__).resolve().parents[2]


def window(rounds: int, scale: float) -> list[Comparison]:
    """Memory and time of 50 classes where MONAI fits, and of 100 classes where its scores alone take 20 GB."""
    shape, cube = whole_eighths((160, 320, 320), scale), whole_eighths((96, 96, 96), scale)
    thin = (cube[0], cube[1], whole_eighths((32,), scale)[0])
    large = whole_eighths((200, 512, 512), scale)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        turns: dict[str, list[dict[str, float]]] = {"ours": [], "monai": []}
        for _ in range(min(rounds, 2)):
            for who, reports in turns.items():
                reports.append(_alone(folder / f"{who}.npy", who, 50, shape, cube))
        error = float(np.abs(np.load(folder / "ours.npy") - np.load(folder / "monai.npy")).max())
        check = f"scores within {error:.1e}"
        what = f"{'x'.join(map(str, shape))}, 50 classes, windows {'x'.join(map(str, cube))}"
        for key, unit in (("cpu_seconds", "CPU s"), ("seconds", "s"), ("gib", "GiB above start")):
            measured = {who: [report[key] for report in reports] for who, reports in turns.items()}
            rows += compare("window", what, measured, unit=unit, check=check)
        slim = _alone(folder / "thin.npy", "ours", 50, shape, thin)
        peak = statistics.median(report["gib"] for report in turns["monai"])
        rows.append(_memory(f"the same, windows {'x'.join(map(str, thin))}", "monai, cubes", slim["gib"], peak))
        whole = 100 * 4 * float(np.prod(large)) / 2**30
        big = _alone(folder / "large.npy", "ours", 100, large, cube)
        name = f"{'x'.join(map(str, large))}, 100 classes ({big['cpu_seconds']:.0f} CPU s)"
        rows.append(_memory(name, "the scores alone", big["gib"], whole))
    return rows


def _memory(what: str, peer: str, ours: float, theirs: float) -> Comparison:
    unit = "GiB above start"
    return Comparison(part="window", what=what, peer=peer, ours=ours, theirs=theirs, unit=unit, ratio=theirs / ours)


def _alone(out: Path, who: str, classes: int, shape: Sequence[int], cube: Sequence[int]) -> dict[str, float]:
    """Report of one run in a process of its own."""
    values: dict[str, Sequence[Any]] = {
        "who": [who],
        "out": [out],
        "classes": [classes],
        "shape": shape,
        "window": cube,
    }
    arguments = [str(text) for name, given in values.items() for text in (f"--{name}", *given)]
    command = [sys.executable, "-m", PROGRAM, *arguments, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RecordError(f"{PROGRAM} {who} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return report
