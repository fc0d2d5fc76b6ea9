"""Rates of training and inference beside others'."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import RATE, WAIT, Turns, take_turns
from benchmarks.gpu_check.parts.speed import CONSTANT, LOADED, MONAI, PLAIN, compared, rows, training


def test_every_contender_has_its_rate(tiny: Conditions) -> None:
    found = {row.what: row for row in rows(tiny)}
    assert not [row.error for row in found.values() if row.error]
    for name in ("training", "inference"):
        for contender in (LOADED, CONSTANT, PLAIN, MONAI):
            row = found[f"{name}, {contender}"]
            assert isinstance(row.value, float) and row.value > 0
            assert row.unit == "images/s"
        assert found[f"{name}, loader efficiency"].goal is None  # of a GPU
        assert 0 < found[f"{name}, host's time in the loader"].value < 100  # type: ignore[operator]
    assert found["inference, whole scans"].unit == "windows/s"


def test_rows_follow_from_the_turns() -> None:
    turns = Turns(
        numbers={
            CONSTANT: [{RATE: 120.0, WAIT: 0.0}, {RATE: 100.0, WAIT: 0.0}],
            LOADED: [{RATE: 108.0, WAIT: 30.0}, {RATE: 98.0, WAIT: 40.0}],
        },
        errors={MONAI: "OutOfMemoryError: 2 GiB"},
    )
    gpu = Conditions(folder=Path("x"), device_id=0)
    found = {row.what: row for row in compared("training", turns, gpu, 2)}
    assert (found["training, constant batch"].value, found["training, constant batch"].verdict) == (110, "met")
    assert (found["training, with the loader"].value, found["training, with the loader"].verdict) == (103, "missed")
    efficiency = found["training, loader efficiency"]
    assert efficiency.value == pytest.approx((0.9 + 0.98) / 2)
    assert (efficiency.goal, efficiency.verdict) == (0.97, "missed")
    assert found["training, host's time in the loader"].value == 35
    assert found[f"training, {MONAI}"].error == "OutOfMemoryError: 2 GiB"
    assert "training, beside DynUNet" not in found


def test_a_failing_loader_leaves_the_other_rows(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no shared memory")

    monkeypatch.setattr("benchmarks.gpu_check.parts.speed.measure_training", broken)
    turns = take_turns(training(tiny), 1)
    found = {row.what: row for row in compared("training", turns, tiny, 2)}
    assert found[f"training, {LOADED}"].error == "RuntimeError: no shared memory"
    assert found[f"training, {MONAI}"].value
