"""One meaning of throughput and latency."""

import pytest

from runtime.latency import latency_units, summarise_latencies


def test_throughput_goes_by_the_mean_time() -> None:
    found = summarise_latencies("train", [0.1, 0.1, 0.4], items=8)
    assert found["throughput_train"] == pytest.approx(3 * 8 / 0.6)
    assert found["latency_train_mean"] == pytest.approx(200)
    assert found["latency_train_50"] == pytest.approx(100)
    assert found["latency_train_90"] == pytest.approx(340)
    assert found["latency_train_99"] == pytest.approx(394)


def test_every_number_has_a_unit() -> None:
    units = latency_units("predict", "voxels")
    assert units.keys() == summarise_latencies("predict", [1.0], items=1).keys()
    assert units["throughput_predict"] == "voxels/s"
    assert units["latency_predict_95"] == "ms"


def test_nothing_measured_is_told() -> None:
    with pytest.raises(ValueError, match="train: nothing was measured"):
        summarise_latencies("train", [], items=8)
