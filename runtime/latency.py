"""Throughput and latency of repeated work, under the names of NVIDIA's DLLogger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHARES = (50, 90, 95, 99)  # percentiles


def summarise_latencies(name: str, seconds: Sequence[float], items: int) -> dict[str, float]:
    """What repeated work took.

    Args:
        name: of the work, such as "train".
        seconds: of each repetition, warm-up left out; at least one.
        items: done in a repetition, such as the images of a batch over all ranks.

    Returns:
        ``throughput_<name>``, items a second by the mean time, so that items over throughput is time on the clock;
        ``latency_<name>_mean``, ``_50`` (the median), ``_90``, ``_95`` and ``_99`` in ms.

    Raises:
        ValueError: without a repetition.
    """
    if not seconds:
        raise ValueError(f"{name}: nothing was measured")
    ms = 1000 * np.asarray(seconds, np.float64)
    mean = float(ms.mean())
    summary = {f"throughput_{name}": 1000 * items / mean, f"latency_{name}_mean": mean}
    return summary | {f"latency_{name}_{share}": float(np.percentile(ms, share)) for share in SHARES}


def latency_units(name: str, item: str = "images") -> dict[str, str]:
    """The unit of each number that :func:`summarise_latencies` gives."""
    return {f"throughput_{name}": f"{item}/s"} | {f"latency_{name}_{part}": "ms" for part in ("mean", *SHARES)}
