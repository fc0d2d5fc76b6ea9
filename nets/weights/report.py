"""What a transfer of weights took, adapted and left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Action = Literal["taken", "adapted", "left"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of a parameter of the network: the file decides ``used`` of its ``size`` numbers."""

    name: str
    action: Action
    reason: str
    size: int
    used: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was transferred; ``str()`` is for people, :meth:`lines` for every parameter."""

    title: str
    path: Path
    entries: tuple[Entry, ...]
    dropped: tuple[str, ...] = ()
    """Biases of the file that a normalisation behind them takes away."""
    unused: tuple[str, ...] = ()
    """Other weights of the file that found no place."""

    @property
    def encoder_coverage(self) -> float:
        """Share of the encoder's numbers that come from the file, 0 to 1."""
        return _coverage([e for e in self.entries if e.name.removeprefix("net.").startswith("encoder.")])

    @property
    def coverage(self) -> float:
        """Share of all the network's numbers that come from the file, 0 to 1."""
        return _coverage(self.entries)

    @property
    def new(self) -> frozenset[str]:
        """Names of the network's parameters that took nothing, for a learning rate of their own."""
        return frozenset(entry.name for entry in self.entries if entry.action == "left")

    def lines(self) -> list[str]:
        """One line a parameter."""
        return [f"{e.action:7} {100 * e.used / max(e.size, 1):5.1f} %  {e.name}: {e.reason}" for e in self.entries]

    def __str__(self) -> str:
        groups: Counter[tuple[str, str]] = Counter()
        numbers: Counter[tuple[str, str]] = Counter()
        for entry in self.entries:
            groups[entry.action, entry.reason] += 1
            numbers[entry.action, entry.reason] += entry.size
        text = [
            f"{self.path}: {self.title}; {100 * self.encoder_coverage:.1f} % of the encoder and "
            f"{100 * self.coverage:.1f} % of all parameters come from it"
        ]
        for (action, reason), count in sorted(groups.items(), key=lambda item: "taken adapted left".find(item[0][0])):
            text.append(f"  {action:7} {count:4} tensors, {numbers[action, reason]:>11,} numbers: {reason}")
        if self.dropped:
            text.append(f"  dropped {len(self.dropped):4} biases before a normalisation, which takes them away")
        if self.unused:
            names = ", ".join(self.unused[:3]) + (", ..." if len(self.unused) > 3 else "")
            text.append(f"  unused  {len(self.unused):4} tensors of the file: {names}")
        return "\n".join(text)


def _coverage(entries: Sequence[Entry]) -> float:
    return sum(e.used for e in entries) / max(sum(e.size for e in entries), 1)
