"""What a pass of prediction takes, on a device that works by itself."""

from __future__ import annotations

from typing import Any

import pytest

from cli.benchmark import time_second_pass
from runtime.latency import StepClock
from tests.made_device import MadeDevice, MadeLoader


@pytest.mark.parametrize(("load_ms", "step_ms"), [(5.0, 8.7), (20.0, 20.0)])
def test_loading_passes_while_the_device_works(load_ms: float, step_ms: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeDevice()
    made.install(monkeypatch)
    loader: Any = MadeLoader(made, 20, load_ms / 1000)
    clock = StepClock(made.device)
    waited = time_second_pass(loader, lambda image: made.queue(0.0087), clock, warmup=4)
    assert clock.seconds() == pytest.approx(16 * [step_ms / 1000])
    assert clock.span == pytest.approx(16 * step_ms / 1000)
    assert waited == pytest.approx(16 * load_ms / 1000)
