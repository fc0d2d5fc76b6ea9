"""The parts of a check. Each is a function from the conditions to rows, in a file of its own.

``PARTS`` is in the table's order. Parts run by ``rank``, the most telling numbers first, since a machine may be lent
for a few minutes or be taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.gpu_check.report import Row
from cases.registry import Registry

if TYPE_CHECKING:
    from benchmarks.gpu_check.conditions import Conditions

Measure = Callable[["Conditions"], Iterator[Row]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """When a part runs, and how long it may take.

    Attributes:
        rank: parts run from the lowest on.
        seconds: that it takes on a GPU; with less left it is skipped, with three times as much it is stopped.
        cpu_seconds: the same where there is no GPU and all is small.
        help: what it shows.
    """

    name: str
    rank: int
    seconds: float
    cpu_seconds: float
    help: str


PARTS = {
    part.name: part
    for part in (
        Part(name="machine", rank=0, seconds=5, cpu_seconds=2, help="versions, driver, clocks, memory, compilers"),
        Part(name="tests", rank=2, seconds=100, cpu_seconds=15, help="all tests that are marked gpu"),
        Part(name="kernels", rank=4, seconds=60, cpu_seconds=5, help="each convolution, and the norm beside memory"),
        Part(name="loader", rank=5, seconds=30, cpu_seconds=5, help="patches per second, and the time spent waiting"),
        Part(name="speed", rank=1, seconds=120, cpu_seconds=15, help="training and inference, beside other software"),
        Part(name="genesis", rank=7, seconds=25, cpu_seconds=5, help="pairs of Models Genesis per second"),
        Part(name="switches", rank=8, seconds=100, cpu_seconds=10, help="--compile, --cuda_graphs and --ema"),
        Part(name="profile", rank=3, seconds=40, cpu_seconds=10, help="copies and synchronisations of a step"),
        Part(name="memory", rank=6, seconds=25, cpu_seconds=5, help="peak memory"),
    )
}
MEASURES: Registry[Measure] = Registry(
    "part of the check", {name: f"benchmarks.gpu_check.parts.{name}:rows" for name in PARTS}
)
