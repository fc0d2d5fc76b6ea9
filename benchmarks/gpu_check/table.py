"""Reports of the check as tables: ``python -m benchmarks.gpu_check.table docs/gpu/*.json``.

Prints Markdown: for the README the rows that have a goal, one column a device, then each device's whole table, as
docs/gpu.md has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_check.parts import PARTS
from benchmarks.gpu_check.report import Report, Row
from cli.run import run_command

HEADINGS = ("part", "what", "found", "goal", "verdict", "how")
NOTHING = "No GPU has been measured: `docs/gpu/` holds no report of `scripts/gpu_check.sh`."


def ordered(report: Report) -> list[Row]:
    """Rows in the table's order of parts, whatever order they ran in."""
    places = {name: place for place, name in enumerate(PARTS)}
    return sorted(report.rows, key=lambda row: places.get(row.part, len(places)))


def found(row: Row) -> str:
    """The value, or the error in its place."""
    if row.error:
        return row.error
    value = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
    return f"{value} {row.unit}".strip()


def cells(row: Row) -> tuple[str, ...]:
    goal = "" if row.goal is None else f"{'at least' if row.better == 'higher' else 'at most'} {row.goal:g}"
    return row.part, row.what, found(row), goal, row.verdict, row.note


def skipped(report: Report) -> list[tuple[str, ...]]:
    """A line for each part that had no time."""
    parts = [(name, part) for name, part in report.parts.items() if part["state"] == "skipped"]
    return [(name, "", "", "", "skipped", part["why"]) for name, part in parts]


def show(report: Report, console: Console | None = None) -> None:
    """On the terminal."""
    table = Table(show_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for line in (*map(cells, ordered(report)), *skipped(report)):
        table.add_row(*line)
    (console or Console(width=max(140, Console().width))).print(table, markup=False)


def markdown(report: Report) -> str:
    """Everything that a report holds."""
    return _table(HEADINGS, [*map(cells, ordered(report)), *skipped(report)])


def goals(reports: Sequence[Report]) -> str:
    """Rows with a goal of all devices beside each other; those of tests and traces, whose goal is 0, are left out."""
    named: dict[str, Row] = {}
    for report in reports:
        named |= {row.what: row for row in ordered(report) if row.goal}
    lines = []
    for what, row in named.items():
        values = [next((cell(r) for r in report.rows if r.what == what), "") for report in reports]
        lines.append((what, f"{row.goal:g} {row.unit}", *values))
    return _table(("what", "goal", *(report.gpu or "no GPU" for report in reports)), lines)


def cell(row: Row) -> str:
    """A device's value beside its verdict."""
    return row.error or f"{row.value:.4g} ({row.verdict})"


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *([text.replace("|", "/") for text in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def document(paths: Sequence[Path]) -> str:
    """The Markdown of all these reports. Raises ReportError for a file that is none."""
    reports = [Report.load(path) for path in paths]
    if not reports:
        return NOTHING
    parts = [goals(reports)]
    for report in reports:
        head = f"### {report.gpu or 'no GPU'}\n\n{report.started}, revision {report.revision}: {report.summary()}."
        parts.append(f"{head}\n\n{markdown(report)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Files without flags, which is why this is no group of settings. A pattern that no file fits is passed over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check.table", description=(__doc__ or "").strip())
    parser.add_argument("reports", nargs="*", type=Path, help="JSON files of scripts/gpu_check.sh")
    given = parser.parse_args(argv).reports
    print(document([path for path in given if path.is_file() or "*" not in path.name]))
    return 0


if __name__ == "__main__":
    run_command(main)
