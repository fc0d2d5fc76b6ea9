"""What flags change in the training step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytorch_lightning.callbacks import WeightAveraging

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import RATE
from benchmarks.gpu_check.parts import switches


def test_averaged_weights_train_as_a_run_does(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "COMPILED", ("no_such_flag",))
    missing, averaged = switches.rows(tiny)
    assert (missing.what, missing.value, missing.verdict) == ("--no_such_flag", "not in this version", "")
    assert averaged.what == "training with --ema"
    assert averaged.value > 0  # type: ignore[operator]
    (callback,) = switches.averaging(tiny)
    assert isinstance(callback, WeightAveraging)


def test_each_flag_is_compared_with_the_plain_step(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def trained(conditions: Conditions, *flags: str, averaging: object = None) -> dict[str, float]:
        asked.append(flags)
        if averaging:
            raise RuntimeError("no averaging")
        return {RATE: 30.0 if flags else 20.0}

    monkeypatch.setattr(switches, "trained", trained)
    monkeypatch.setattr(switches, "COMPILED", ("compile",))
    monkeypatch.setattr(switches, "averaging", lambda conditions: ["averaging"])
    left_out, _ = switches.rows(tiny)
    assert "left out without a GPU" in str(left_out.value)
    ema, compiled = switches.rows(replace(tiny, device_id=0))
    assert ema.error == "RuntimeError: no averaging"
    assert (compiled.value, compiled.note) == (30, "1.500 times the plain step's 20.0")
    assert asked[-2:] == [(), ("--compile",)]
