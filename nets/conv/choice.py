"""Which of two ways through a convolution is faster on this device: measured once for each kind, and kept.

Every process measures for itself. Ranks that choose differently, as they may where both take the same time, differ in
rounding alone: their gradients are averaged all the same, and their weights stay equal.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from runtime.devices import global_rank

WARM_UP = 3  # compiles, and lets cuDNN settle on an algorithm
REPEATS = 11
MARGIN = 0.97  # of the library's time, that a choice is not made by noise

Step = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """A kind of convolution that is measured.

    Attributes:
        shape: of the input, (N, C, D, H, W).
        outputs: channels.
        dtype: that it is computed in.
        device: number of the GPU.
        gradients: whether those of input and weights are wanted.
    """

    shape: tuple[int, ...]
    outputs: int
    dtype: torch.dtype
    device: int
    gradients: tuple[bool, bool]

    def __str__(self) -> str:
        sides = "x".join(map(str, self.shape[2:]))
        steps = "forward and backward" if any(self.gradients) else "forward"
        return f"3x3x3 convolution {self.shape[1]}->{self.outputs} at {self.shape[0]} x {sides}, {steps}"


_kept: dict[Work, bool] = {}


def known(work: Work) -> bool | None:
    """What was decided, if it was."""
    return _kept.get(work)


def decide(work: Work, own: Step, library: Step) -> bool:
    """Measure both, keep which is faster and say so; whether it is our own, which also must build."""
    from triton import TritonError

    try:
        ours, theirs = milliseconds((own, library))
    except (TritonError, torch.OutOfMemoryError) as error:
        _kept[work], words = False, f"own kernel fails ({str(error).strip().splitlines()[-1]}): cuDNN"
    else:
        _kept[work] = ours < MARGIN * theirs
        words = f"own kernel {ours:.2f} ms, cuDNN {theirs:.2f} ms: {'own' if _kept[work] else 'cuDNN'}"
    if global_rank() == 0:
        print(f"{work}: {words}", flush=True)
    return _kept[work]


def milliseconds(steps: Sequence[Step], repeats: int = REPEATS) -> list[float]:
    """Median time of each on the current device; they take turns, so that a clock that changes treats all alike."""
    for step in steps:
        for _ in range(WARM_UP):
            step()
    turns = [[_timed(step) for step in steps] for _ in range(repeats)]
    torch.cuda.synchronize()
    return [statistics.median(start.elapsed_time(end) for start, end in times) for times in zip(*turns, strict=True)]


def _timed(step: Step) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    return start, end
