"""What a benchmark leaves behind."""

from __future__ import annotations

import pytest

from benchmarks.record import RecordError, latencies


def test_latencies_are_percentiles() -> None:
    results = latencies("work", [i / 1000 for i in range(1, 102)], items=3, unit="things")
    assert results["latency_work_50"].value == pytest.approx(51)
    assert results["latency_work_90"].value == pytest.approx(91)
    assert results["latency_work_99"].value == pytest.approx(100)
    assert results["throughput_work"].value == pytest.approx(3000 / 51)
    with pytest.raises(RecordError, match="nothing was measured"):
        latencies("work", [], items=1, unit="things")


def test_throughput_goes_by_the_mean_and_has_a_namesake_by_the_median() -> None:
    results = latencies("work", [0.1, 0.1, 0.4], items=8, unit="things")
    assert results["throughput_work"].value == pytest.approx(3 * 8 / 0.6)
    assert results["median_throughput_work"].value == pytest.approx(80)
    for name in ("throughput_work", "median_throughput_work"):
        assert (results[name].unit, results[name].better) == ("things/s", "higher")
    assert (results["latency_work_mean"].unit, results["latency_work_mean"].better) == ("ms", "lower")
