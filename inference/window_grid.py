"""Where the windows over a volume lie, and in which order and batches they are visited."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Corner = tuple[int, ...]  # of a window, from the padded volume's corner
Slices = tuple[slice, ...]


def axis_starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the windows along one axis; the last window ends with the volume."""
    step = max(1, int(side * (1 - overlap)))
    last = max(0, length - side)
    return (*range(0, last, step), last)


@dataclass(frozen=True)
class WindowGrid:
    """Places of all windows; starts count from the padded volume's corner."""

    shape: tuple[int, ...]
    window: tuple[int, int, int]
    starts: tuple[tuple[int, ...], ...]

    @classmethod
    def over(cls, shape: Sequence[int], window: tuple[int, int, int], overlap: float) -> WindowGrid:
        """Windows that cover a volume of this (D, H, W)."""
        starts = tuple(axis_starts(n, side, overlap) for n, side in zip(shape, window, strict=True))
        return cls(tuple(shape), window, starts)

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(max(n, side) for n, side in zip(self.shape, self.window, strict=True))

    @property
    def pad_before(self) -> tuple[int, ...]:
        return tuple((big - n) // 2 for big, n in zip(self.padded, self.shape, strict=True))

    @property
    def axis(self) -> int:
        """The axis that makes the smallest slab: for cubic windows the volume's longest."""
        depth = [side / n for side, n in zip(self.window, self.padded, strict=True)]
        return depth.index(min(depth))

    @property
    def inside(self) -> Slices:
        """The part of a window that lies in the volume: of every window the same, as one alone spans a padded axis."""
        sides = zip(self.pad_before, self.window, self.shape, strict=True)
        return tuple(slice(before, before + min(side, n)) for before, side, n in sides)

    def source(self, corner: Corner) -> Slices:
        """The part of the volume that lies in a window."""
        sides = zip(corner, self.window, self.shape, strict=True)
        return tuple(slice(start, start + min(side, n)) for start, side, n in sides)

    def groups(self, batch_size: int) -> Iterator[list[Corner]]:
        """Windows in order along ``axis``: one layer at a time, or as many whole layers as fill a batch."""
        layers = self.starts[self.axis]
        across = [starts for axis, starts in enumerate(self.starts) if axis != self.axis]
        for part in pieces(layers, self._layers_at_once(batch_size)):
            group = []
            for start, (a, b) in itertools.product(part, itertools.product(*across)):
                corner = [a, b]
                corner.insert(self.axis, start)
                group.append(tuple(corner))
            yield group

    def batches(self, batch_size: int, *, full: bool) -> list[list[list[Corner]]]:
        """All windows in batches, each of them by group: the planes before a group are finished when it begins.

        Args:
            full: fill batches across the ends of groups, so that all but the last have one size.
        """
        groups = list(self.groups(batch_size))
        runs = [groups] if full else [[group] for group in groups]
        batches = []
        for run in runs:
            windows = [(number, corner) for number, group in enumerate(run) for corner in group]
            for batch in pieces(windows, batch_size):
                parts = itertools.groupby(batch, key=lambda window: window[0])
                batches.append([[corner for _, corner in part] for _, part in parts])
        return batches

    def _layers_at_once(self, batch_size: int) -> int:
        per_layer = int(np.prod([len(s) for axis, s in enumerate(self.starts) if axis != self.axis]))
        return max(1, batch_size // per_layer)

    def slab_depth(self, batch_size: int) -> int:
        """Planes that the windows of one group span, at most."""
        spans = [part[-1] - part[0] for part in pieces(self.starts[self.axis], self._layers_at_once(batch_size))]
        return max(spans) + self.window[self.axis]


def pieces(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of ``size`` items; the last may be shorter."""
    return (items[first : first + size] for first in range(0, len(items), size))
