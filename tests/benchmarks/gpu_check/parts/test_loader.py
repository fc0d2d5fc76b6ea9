"""The loader's own rate, and a consumer that is busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts.loader import mean_seconds, rows


def test_rate_efficiency_and_waiting(tiny: Conditions) -> None:
    found = {row.what.rpartition(": ")[2]: row for row in rows(tiny)}
    assert found["at full speed"].value > 0  # type: ignore[operator]
    assert found["efficiency"].value > 0  # type: ignore[operator]
    assert found["waiting"].value > 0  # type: ignore[operator]
    assert "0 workers" in found["at full speed"].note


@pytest.mark.parametrize(("load", "device", "step"), [(5.0, 8.0, 8.0), (8.0, 5.0, 8.0), (3.0, 0.0, 3.0)])
def test_loading_passes_beside_the_device(
    load: float, device: float, step: float, tiny: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def batches() -> Iterator[int]:
        nonlocal now
        while True:
            now += load
            yield 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    assert mean_seconds(batches(), 20, 4, device, tiny) == pytest.approx(step)
