"""Our speed and memory beside the peers', in one run, turn by turn, on the same data.

``python -m benchmarks.peers --only loader resample --results R`` prints one table and writes ``R/peers.json``. The
peers are nnU-Net v2, the recipe of NVIDIA's nnU-Net and MONAI; what they need is in requirements-peers.txt. Times are
CPU seconds of all threads unless named otherwise, so that a busy machine disturbs them little; each ratio is the
median over the rounds, in which all take turns.

loader: samples with the full nnU-Net augmentation; ours reads them from disk, nnU-Net v2 has its input in memory.
resample: image and label of a CT-like case. preprocess: that case from NIfTI to stored arrays.
window: a small network over a volume, each run in a process of its own. train: one training step, the network's
filters, batch, precision and memory layout being the same. genesis: pairs against the published algorithm's loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.checks import among
from benchmarks.peers.comparison import Comparison
from benchmarks.record import Metric, RecordError, Results, write_record
from cases.registry import Registry, RegistryError
from cases.settings import Settings, above, as_json, setting
from cli.compose import parse
from cli.run import run_command

PARTS: Registry[Callable[[int, float], list[Comparison]]] = Registry(
    "part",
    {  # imported when they are asked for: each needs its peer's packages
        "loader": "benchmarks.peers.loading:loader",
        "resample": "benchmarks.peers.resampling:resample",
        "preprocess": "benchmarks.peers.preprocessing:preprocess",
        "window": "benchmarks.peers.windows:window",
        "train": "benchmarks.peers.training:train",
        "genesis": "benchmarks.peers.restoration:genesis",
    },
)


@dataclass(frozen=True, kw_only=True)
class PeersSettings(Settings):
    """What is compared, and how often."""

    only: tuple[str, ...] = setting(tuple(PARTS), f"parts to measure, of {', '.join(PARTS)}", check=among(tuple(PARTS)))
    results: Path = setting(Path("results"), "where peers.json goes", kept=False)
    rounds: int = setting(3, "turns of each; the window and the slow resampling take at most 2", check=above(0))
    scale: float = setting(
        1.0, "factor on every volume's sides, for a quick look; the published figures are at 1", check=above(0)
    )
    threads: int = setting(1, "threads of PyTorch", check=above(0))

    def faults(self) -> list[str]:
        return [f"--scale {self.scale} is above 1"] if self.scale > 1 else []


def measure(settings: PeersSettings) -> list[Comparison]:
    """All rows of the parts asked for. Raises RecordError where a peer is not installed."""
    rows: list[Comparison] = []
    for part in settings.only:
        try:
            found = PARTS.get(part)(settings.rounds, settings.scale)
        except (RegistryError, ModuleNotFoundError) as error:
            missing = error.__cause__ if isinstance(error, RegistryError) else error
            if not isinstance(missing, ModuleNotFoundError):
                raise
            raise RecordError(f"{missing.name} is not installed: see requirements-peers.txt") from error
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
    """Print the table and write it."""
    settings = parse((PeersSettings,), argv, (__doc__ or "").split("\n")[0])[PeersSettings]
    torch.set_num_threads(settings.threads)
    rows = measure(settings)
    show(rows)
    path = settings.results / "peers.json"
    write_record(path, as_json(settings) | {"rows": [asdict(row) for row in rows]}, metrics(rows))
    return 0


if __name__ == "__main__":
    run_command(main)
