"""Throughput and latency of repeated work, under the names of NVIDIA's DLLogger."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

SHARES = (50, 90, 95, 99)  # percentiles


class StepClock:
    """The times of steps, taken without emptying the device's queue.

    A device is as fast as it can be while its next step waits in its queue, so that the host's work, loading above all,
    passes meanwhile. So the clock waits for the step before the one that was queued last, never for that one. A step
    lasts from its predecessor's end to its own, as CUDA's events have it. All steps together last as long as the host's
    clock says, between two moments of the same kind: a step is queued, and the one before it is done.

    On a CPU, where a step is done when its code has run, both are the host's clock.

    Args:
        device: that does the steps, on its current stream.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._ends: list[torch.cuda.Event] = []
        self._ticks: list[float] = []

    def tick(self) -> None:
        """A step has been queued. Waits for the one before it."""
        if self.device.type == "cuda":
            end = torch.cuda.Event(enable_timing=True)
            end.record(torch.cuda.current_stream(self.device))
            if self._ends:
                self._ends[-1].synchronize()
            self._ends.append(end)
        self._ticks.append(time.perf_counter())

    def restart(self) -> None:
        """Forget all steps but the last one, with whose end the measurement begins."""
        del self._ends[:-1], self._ticks[:-1]

    @property
    def span(self) -> float:
        """Seconds of all steps together, by the host's clock."""
        return self._ticks[-1] - self._ticks[0] if self._ticks else 0.0

    def seconds(self) -> list[float]:
        """Of each step after the first; waits for the last."""
        if self.device.type != "cuda":
            return [end - start for start, end in pairwise(self._ticks)]
        if self._ends:
            self._ends[-1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairwise(self._ends)]


def summarise_latencies(
    name: str, seconds: Sequence[float], items: int, *, span: float | None = None
) -> dict[str, float]:
    """What repeated work took.

    Args:
        name: of the work, such as "train".
        seconds: of each repetition, warm-up left out; at least one.
        items: done in a repetition, such as the images of a batch over all ranks.
        span: what all repetitions took on the clock; None: the sum of them.

    Returns:
        ``throughput_<name>``, items a second on the clock, and ``latency_<name>_mean``, of a repetition on the clock;
        ``latency_<name>_50`` (the median), ``_90``, ``_95`` and ``_99``, of the repetitions. Latencies are in ms.

    Raises:
        ValueError: without a repetition.
    """
    if not seconds:
        raise ValueError(f"{name}: nothing was measured")
    ms = 1000 * np.asarray(seconds, np.float64)
    mean = float(ms.mean()) if span is None else 1000 * span / len(ms)
    summary = {f"throughput_{name}": 1000 * items / mean, f"latency_{name}_mean": mean}
    return summary | {f"latency_{name}_{share}": float(np.percentile(ms, share)) for share in SHARES}


def latency_units(name: str, item: str = "images") -> dict[str, str]:
    """The unit of each number that :func:`summarise_latencies` gives."""
    return {f"throughput_{name}": f"{item}/s"} | {f"latency_{name}_{part}": "ms" for part in ("mean", *SHARES)}
