"""Our speed and memory beside the peers', in one run, turn by turn, on the same data.

``python scripts/benchmark_peers.py --only loader resample --results R`` prints one table and writes
``R/peers.json``. The peers are nnU-Net v2, the recipe of NVIDIA's nnU-Net and MONAI; what they need is in
requirements-peers.txt. Times are CPU seconds of all threads unless named otherwise, so that a busy machine
disturbs them little; each ratio is the median over the rounds, in which all take turns.

loader: samples with the full nnU-Net augmentation; ours reads them from disk, nnU-Net v2 has its input in memory.
resample: image and label of a CT-like case. preprocess: that case from NIfTI to stored arrays.
window: a small network over a volume, each run in a process of its own. train: one training step, the network's
filters, batch, precision and memory layout being the same. genesis: pairs against the published algorithm's loops.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import Metric, RecordError, Results, write_record
from settings import SettingsError, parse, run_command, setting

PARTS = ("loader", "resample", "preprocess", "window", "train", "genesis")
Part = Literal["loader", "resample", "preprocess", "window", "train", "genesis"]
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class PeersSettings:
    """``scripts/benchmark_peers.py``."""

    only: tuple[Part, ...] = setting(PARTS, "parts to measure")
    results: Path = setting(Path("results"), "where peers.json goes")
    rounds: int = setting(3, "turns of each; the window and the slow resampling take at most 2")
    scale: float = setting(1.0, "of every volume's sides, for a quick look; the published figures are at 1")
    threads: int = setting(1, "of PyTorch")

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.threads < 1 or not 0 < self.scale <= 1:
            raise SettingsError("--rounds and --threads are at least 1, --scale is above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row of the table: ``ratio`` is theirs over ours, so that more than 1 is our advantage."""

    part: str
    what: str
    peer: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    check: str = ""


def take_turns(works: Mapping[str, Work], rounds: int, *, warm: bool = True) -> dict[str, list[float]]:
    """CPU seconds of each work in each round."""
    if warm:
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    return seconds


def compare(part: str, what: str, seconds: Mapping[str, Sequence[float]], *, unit: str, check: str = "") -> list[Any]:
    """Rows of "ours" against every other name in :func:`take_turns`' answer."""
    rows = []
    for peer in seconds.keys() - {"ours"}:
        pairs = zip(seconds["ours"], seconds[peer], strict=True)
        ratio = statistics.median(b / a for a, b in pairs)
        ours, theirs = statistics.median(seconds["ours"]), statistics.median(seconds[peer])
        row = Comparison(part=part, what=what, peer=peer, ours=ours, theirs=theirs, unit=unit, ratio=ratio, check=check)
        rows.append(row)
    return rows


def measure(settings: PeersSettings) -> list[Comparison]:
    """All rows of the parts asked for."""
    from benchmarks import peers_data as benchmark_peers_data  # they need the peers' packages
    from benchmarks import peers_nets as benchmark_peers_nets  # they need the peers' packages

    rows: list[Comparison] = []
    for part in settings.only:
        module = benchmark_peers_nets if part in ("window", "train") else benchmark_peers_data
        found = getattr(module, part)(settings.rounds, settings.scale)
        for row in found:
            print(f"{row.part}: {row.what}: {row.ours:.4g} {row.unit}, {row.peer} {row.theirs:.4g}", flush=True)
        rows += found
    return rows


def show(rows: Sequence[Comparison]) -> None:
    table = Table(title="ours and the peers'", show_edge=False)
    for name in ("part", "what", "unit", "ours", "peer", "theirs", "theirs/ours", "check"):
        table.add_column(name, justify="right" if name in ("ours", "theirs", "theirs/ours") else "left")
    for row in rows:
        numbers = f"{row.ours:.4g}", row.peer, f"{row.theirs:.4g}", f"{row.ratio:.2f}"
        table.add_row(row.part, row.what, row.unit, *numbers, row.check)
    Console(width=180).print(table)


def metrics(rows: Sequence[Comparison]) -> Results:
    return {
        f"{row.part} {row.what} vs {row.peer}": Metric(value=row.ratio, unit="times", better="higher") for row in rows
    }


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(PeersSettings, argv, (__doc__ or "").split("\n")[0])
    torch.set_num_threads(settings.threads)
    try:
        rows = measure(settings)
    except ModuleNotFoundError as error:
        raise RecordError(f"{error.name} is not installed: see requirements-peers.txt") from error
    show(rows)
    write_record(
        settings.results / "peers.json", {**asdict(settings), "rows": [asdict(r) for r in rows]}, metrics(rows)
    )
    return 0


if __name__ == "__main__":
    run_command(main)
