"""Models Genesis pairs: ours beside the published algorithm's loops."""

from __future__ import annotations

from benchmarks.genesis import GenesisBenchmark, run
from benchmarks.peers.comparison import Comparison


def genesis(rounds: int, scale: float) -> list[Comparison]:
    """Models Genesis pairs of 32x64x64, all settings as published."""
    del scale  # the published patch is small
    found = run(GenesisBenchmark(repeats=10 * rounds))
    pair = found["pair"]
    return [
        Comparison(
            part="genesis",
            what="a pair of 32x64x64",
            peer="published loops",
            ours=pair["ours"]["mean_ms"],
            theirs=pair["loop"]["mean_ms"],
            unit="CPU ms",
            ratio=pair["ratio"],
            check=f"{found['pairs_per_second']:.0f} pairs/s a core",
        )
    ]
