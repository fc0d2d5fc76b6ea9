"""Two runs of scripts/benchmark.py beside each other, by their files benchmark_<mode>.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.record import RecordError, Results, read_record

SAME_SETTINGS = (
    *("mode", "dim", "batch_size", "amp", "gpus", "nodes"),
    *("volume", "patch_size", "channels", "classes", "flags"),
)
SAME_MACHINE = ("cpu", "cores", "gpus")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric of two files; ``worse`` is the share by which the second falls behind, below 0 if it is ahead.

    Of a metric in per cent, such as the time spent waiting, it is the difference.
    """

    name: str
    unit: str
    before: float
    after: float
    worse: float


def share(text: str) -> float:
    """ "10%" or "0.1". Raises RecordError for anything else, and below 0."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise RecordError(f"--max_regression {text} is neither a percentage such as 10% nor a share") from error
    if not value >= 0:
        raise RecordError(f"--max_regression {text} is below 0")
    return value


def changes(before: Results, after: Results) -> list[Change]:
    """Of all metrics that both have. Raises RecordError for other units, or where there is none."""
    found = []
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        if (old.unit, old.better) != (new.unit, new.better):
            raise RecordError(f"{name}: {old.unit} ({old.better} is better) against {new.unit} ({new.better})")
        if old.unit == "%":
            worse = (new.value - old.value) / (100 if old.better == "lower" else -100)
        else:
            worse = new.value / old.value - 1 if old.better == "lower" else old.value / new.value - 1
        found.append(Change(name=name, unit=old.unit, before=old.value, after=new.value, worse=worse))
    if not found:
        raise RecordError("the two have no result in common, so there is nothing to compare")
    return sorted(found, key=lambda change: change.name)


def show(found: Sequence[Change], limit: float, names: tuple[str, str]) -> int:
    """Print the table; 1 where a change is worse than the limit."""
    table = Table(show_edge=False)
    for heading in ("result", "unit", *names, "change", ""):
        table.add_column(heading, justify="left" if heading in ("result", "unit", "") else "right")
    for change in found:
        verdict = "REGRESSION" if change.worse > limit else ""
        sign = "slower" if change.worse > 0 else "better"
        values = f"{change.before:.4g}", f"{change.after:.4g}", f"{100 * abs(change.worse):.1f} % {sign}"
        table.add_row(change.name, change.unit, *values, verdict)
    Console(width=max(120, Console().width)).print(table)
    bad = [change.name for change in found if change.worse > limit]
    if bad:
        print(f"worse by more than {100 * limit:g} %: {', '.join(bad)}")
    return int(bool(bad))


def check_comparable(before: Path, after: Path, records: Sequence[dict[str, Any]]) -> None:
    """Raises RecordError where two files were measured with other settings or on another machine."""
    old, new = records
    for name in SAME_SETTINGS:
        then, now = old["settings"].get(name), new["settings"].get(name)
        if then != now:
            raise RecordError(f"{before} was measured with {name} {then}, {after} with {now}: not comparable")
    for name in SAME_MACHINE:
        then, now = old["machine"].get(name), new["machine"].get(name)
        if then != now:
            raise RecordError(
                f"{before} was measured on {name} {then}, {after} on {now}: measure both on one machine, "
                "or let scripts/benchmark.py --against do it"
            )


def compare_files(before: Path, after: Path, limit: float) -> int:
    """Print the changes from one file to the other; 1 where one is worse than the limit."""
    records = read_record(before), read_record(after)
    check_comparable(before, after, records)
    return show(changes(records[0]["results"], records[1]["results"]), limit, (before.name, after.name))
