"""What preprocessing says while it works, and of its result."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cases.case import list_cases
from cases.plan import Plan
from data_preprocessing.layouts.dataset import Scan
from data_preprocessing.preprocessor import Outcome

T = TypeVar("T")


def shown(items: Iterable[T], what: str, total: int, console: Console) -> Iterator[T]:
    """The items behind a progress bar, or after one line where the output is no terminal."""
    if console.is_terminal:
        yield from track(items, description=what, total=total, console=console)
        return
    say(console, f"{what} {total} cases ...")
    yield from items


def say(console: Console, text: str) -> None:
    """A line as it is: no wrapping, and brackets of file names are no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def summary(outcomes: Sequence[Outcome], folder: Path, plan: Plan, seconds: float, console: Console) -> None:
    """A table of shapes and times over the cases that are there now."""
    infos = [outcome.info for outcome in outcomes if outcome.info]
    if not infos:
        return
    table = Table(title=f"{folder}", caption=f"axes D, H, W; {seconds:.1f} s in all", show_edge=False)
    for heading in ("", "least", "median", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = {
        "scan": [info.geometry.shape_dhw for info in infos],
        "cropped": [info.shape_cropped for info in infos],
        "stored": [info.shape_stored for info in infos],
    }
    for title, shapes in rows.items():
        ends = (np.min(shapes, axis=0), np.median(shapes, axis=0), np.max(shapes, axis=0))
        table.add_row(title, *(" x ".join(f"{side:g}" for side in shape) for shape in ends))
    times = [info.seconds for info in infos]
    table.add_row("seconds a case", *(f"{t:.2f}" for t in (min(times), float(np.median(times)), max(times))))
    console.print(table)
    if 0 < len(infos[0].voxels_per_class) <= 10:
        counts = np.sum([info.voxels_per_class for info in infos], axis=0)
        shares = ", ".join(f"{n} {100 * c / counts.sum():.3g} %" for n, c in zip(plan.labels, counts, strict=True))
        say(console, f"Voxels: {shares}")
    kept = sum(outcome.kept for outcome in outcomes)
    say(console, f"{len(infos)} cases in {folder}" + (f", {kept} of them from an earlier run" if kept else ""))


def strangers(folder: Path, scans: Sequence[Scan], console: Console) -> None:
    """Say which cases lie in the folder without being the dataset's: training would use them."""
    if others := sorted(set(list_cases(folder)) - {scan.case for scan in scans}):
        say(console, f"warning: {folder} also holds {', '.join(others)}, not in the dataset; delete their .json files")


def report_faults(faults: Mapping[str, Sequence[str]], total: int) -> int:
    """Print them; the exit status of the command."""
    if not faults:
        return 0
    print(f"error: {len(faults)} of {total} cases cannot be used:", file=sys.stderr)
    for case, found in sorted(faults.items()):
        print(f"  {case}: {'; '.join(found)}", file=sys.stderr)
    return 1
