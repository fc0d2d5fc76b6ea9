"""One verdict on this machine's GPU: tests, kernels, loader, speed beside its goals, copies, memory.

scripts/gpu_check.sh starts this, and docs/gpu.md says how to read it. Writes gpu_check.json after each part,
gpu_check.md at the end, and gpu_check.log with all that was printed on the way, to --results. Exit status: 0, all
goals are met; 1, one is missed or something failed; 2, the command line is wrong; 3, there is no GPU, and what can run
without one did; 4, a part had no time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.checks import among
from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import PARTS, Part
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.schedule import ROOT, ProcessWorker, Worker, run_parts
from benchmarks.gpu_check.table import markdown, show
from cases.files import write_text
from cases.settings import Settings, above, setting
from cli.compose import parse
from cli.run import run_command

MINUTES = {True: 10.0, False: 2.0}  # with a GPU and without


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Settings):
    """What is checked, and for how long."""

    only: tuple[str, ...] = setting((), f"these parts alone, of {', '.join(PARTS)}", check=among(PARTS))
    skip: tuple[str, ...] = setting((), "all parts but these", check=among(PARTS))
    minutes: float | None = setting(
        None, "in all; parts that no longer fit are skipped. None: 10 with a GPU, 2 without", check=above(0)
    )
    results: Path = setting(Path("results/gpu_check"), "where report, table and log go", kept=False)

    @property
    def parts(self) -> list[Part]:
        """Those wanted, in the table's order."""
        return [part for name, part in PARTS.items() if name in (self.only or PARTS) and name not in self.skip]

    def faults(self) -> list[str]:
        return [] if self.parts else ["--only and --skip leave no part"]


def check(
    settings: CheckSettings, conditions: Conditions, start: Callable[[Conditions, Path], Worker] = ProcessWorker
) -> Report:
    """Run the parts. The JSON file is written after each."""
    results = settings.results
    results.mkdir(parents=True, exist_ok=True)
    log = results / "gpu_check.log"
    log.unlink(missing_ok=True)
    report = Report(
        gpu=torch.cuda.get_device_name(conditions.device) if conditions.gpu else None,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        revision=revision(),
    )
    run_parts(
        settings.parts,
        report,
        60 * (settings.minutes or MINUTES[conditions.gpu]),
        lambda: start(conditions, log),
        gpu=conditions.gpu,
        save=lambda: report.save(results / "gpu_check.json"),
    )
    write_text(results / "gpu_check.md", markdown(report) + "\n")
    return report


def revision() -> str:
    """What git calls the tree; unknown without it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    settings = parse((CheckSettings,), argv, (__doc__ or "").split("\n")[0])[CheckSettings]
    gpu = torch.cuda.is_available()
    if not gpu:
        print("no GPU here: every part runs on the CPU with small sizes, to show that it runs", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = check(settings, Conditions.on(0 if gpu else None, Path(folder)))
    show(report)
    print(report.summary())
    print(f"report: {settings.results / 'gpu_check.json'}; table: gpu_check.md; what was printed: gpu_check.log")
    return report.status


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # whoever watches sees each row
    run_command(main)
