"""One meaning of throughput and latency."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from runtime.latency import StepClock, latency_units, summarise_latencies
from tests.made_device import MadeDevice


def test_throughput_goes_by_the_mean_time() -> None:
    found = summarise_latencies("train", [0.1, 0.1, 0.4], items=8)
    assert found["throughput_train"] == pytest.approx(3 * 8 / 0.6)
    assert found["latency_train_mean"] == pytest.approx(200)
    assert found["latency_train_50"] == pytest.approx(100)
    assert found["latency_train_90"] == pytest.approx(340)
    assert found["latency_train_99"] == pytest.approx(394)


def test_throughput_goes_by_the_clock_where_it_is_given() -> None:
    found = summarise_latencies("train", [0.1, 0.1, 0.4], items=8, span=0.9)
    assert found["throughput_train"] == pytest.approx(3 * 8 / 0.9)
    assert found["latency_train_mean"] == pytest.approx(300)
    assert found["latency_train_50"] == pytest.approx(100)


def test_every_number_has_a_unit() -> None:
    units = latency_units("predict", "voxels")
    assert units.keys() == summarise_latencies("predict", [1.0], items=1).keys()
    assert units["throughput_predict"] == "voxels/s"
    assert units["latency_predict_95"] == "ms"


def test_nothing_measured_is_told() -> None:
    with pytest.raises(ValueError, match="train: nothing was measured"):
        summarise_latencies("train", [], items=8)


@pytest.mark.parametrize(
    ("host_ms", "device_ms", "step_ms"),
    [(5.0, 8.7, 8.7), (0.0, 8.7, 8.7), (8.0, 8.7, 8.7), (20.0, 8.7, 20.0)],
)
def test_the_hosts_work_passes_while_a_step_is_queued(
    host_ms: float, device_ms: float, step_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MadeDevice()
    made.install(monkeypatch)
    clock = StepClock(made.device)
    for step in range(30):
        made.host(host_ms / 1000)
        made.queue(device_ms / 1000)
        clock.tick()
        if step < 10:
            clock.restart()
    assert clock.seconds() == pytest.approx(20 * [step_ms / 1000])
    assert clock.span == pytest.approx(20 * step_ms / 1000)


def test_a_late_batch_is_one_steps_latency_and_part_of_the_span(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeDevice()
    made.install(monkeypatch)
    clock = StepClock(made.device)
    for step in range(21):
        made.host(0.1 if step == 10 else 0.001)
        made.queue(0.01)
        clock.tick()
    times = clock.seconds()
    assert len(times) == 20
    assert times[9] == pytest.approx(0.1)  # it reached the device when the step before it had been done for long
    assert sorted(times)[:19] == pytest.approx(19 * [0.01])
    assert clock.span == pytest.approx(sum(times), abs=0.011)  # a step is in the queue at both of its ends


def test_a_cpu_is_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moments: Iterator[float] = iter([1.0, 2.0, 2.5, 4.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    clock = StepClock(torch.device("cpu"))
    clock.restart()
    assert (clock.seconds(), clock.span) == ([], 0.0)
    clock.tick()
    clock.tick()
    clock.restart()
    clock.tick()
    clock.tick()
    assert clock.seconds() == [0.5, 2.0]
    assert clock.span == 2.5
