"""A row of the peers' table, and how its times are taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


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


def compare(
    part: str, what: str, seconds: Mapping[str, Sequence[float]], *, unit: str, check: str = ""
) -> list[Comparison]:
    """Rows of "ours" against every other name in :func:`take_turns`' answer."""
    rows = []
    for peer in (name for name in seconds if name != "ours"):
        pairs = zip(seconds["ours"], seconds[peer], strict=True)
        ratio = statistics.median(b / a for a, b in pairs)
        ours, theirs = statistics.median(seconds["ours"]), statistics.median(seconds[peer])
        row = Comparison(part=part, what=what, peer=peer, ours=ours, theirs=theirs, unit=unit, ratio=ratio, check=check)
        rows.append(row)
    return rows


def whole_eighths(shape: Sequence[int], scale: float) -> tuple[int, ...]:
    """Sides that can be halved three times, at least 8."""
    return tuple(max(8, int(n * scale) // 8 * 8) for n in shape)


def scaled(shape: Sequence[int], scale: float) -> tuple[int, int, int]:
    """Even sides of a smaller volume, at least 16; the same at 1."""
    d, h, w = (max(16, int(n * scale)) // 2 * 2 if scale < 1 else n for n in shape)
    return d, h, w
