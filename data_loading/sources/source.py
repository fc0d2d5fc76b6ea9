"""What DALI asks of a source, and what it tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.memory import keep_freed_memory


class SampleInfo(Protocol):
    """Which sample is wanted; ``iteration`` counts batches from the pipeline's start."""

    iteration: int
    idx_in_batch: int


class Source(Protocol):
    """What feeds a pipeline: a callable that the workers unpickle, one call a sample, one array a port."""

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]: ...

    def at(self, global_step: int) -> Source:
        """The same source for a pipeline that begins at ``global_step`` (epoch * steps + step)."""
        ...


@dataclass(frozen=True)
class InWorker:
    """A source as a reading process calls it: with the memory of one box the next is read."""

    source: Source

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        keep_freed_memory()
        return self.source(info)
