"""A CUDA device that does its work on a made-up clock, behind the names that PyTorch has for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch


class MadeDevice:
    """Steps queue up; the host's clock moves by :meth:`host`, and where it waits for the device.

    Attributes:
        now: the host's clock, in seconds.
        free: when the device has done all that is queued.
    """

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        self.now = self.free = 0.0

    def host(self, seconds: float) -> None:
        """The host is busy."""
        self.now += seconds

    def queue(self, seconds: float) -> None:
        """Work for the device, which begins when all before it is done."""
        self.free = max(self.free, self.now) + seconds

    def wait_until(self, moment: float) -> None:
        self.now = max(self.now, moment)

    def synchronize(self, *_: Any) -> None:
        self.wait_until(self.free)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put it behind torch.cuda, and its clock behind time.perf_counter."""
        made = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                assert stream == "current"
                self.done = max(made.free, made.now)

            def synchronize(self) -> None:
                made.wait_until(self.done)

            def elapsed_time(self, end: Any) -> float:
                assert made.now >= end.done  # CUDA refuses the time of what is not done
                return float(1000 * (end.done - self.done))

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current")
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


class MadeLoader:
    """Batches that cost the host ``seconds`` each; ``wait_seconds`` counts them as PatchLoader's does."""

    def __init__(self, device: MadeDevice, steps: int, seconds: float) -> None:
        self.made, self.steps, self.seconds, self.wait_seconds = device, steps, seconds, 0.0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Any:
        for _ in range(self.steps):
            self.made.host(self.seconds)
            self.wait_seconds += self.seconds
            yield {"image": torch.zeros(1)}


def made_trainer(loader: MadeLoader) -> Any:
    return SimpleNamespace(train_dataloader=loader, current_epoch=0, world_size=1)
