"""Peak memory of each kind of step."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts.memory import restoration_step, rows


def test_each_kind_has_a_peak(tiny: Conditions) -> None:
    found = list(rows(tiny))
    assert [row.what.partition(",")[0] for row in found] == [
        "training",
        "the same with DynUNet",
        "inference",
        "a whole scan",
        "Genesis",
    ]
    values = [row.value for row in found]
    assert values == sorted(values)  # type: ignore[type-var]  # of the process until then
    assert values[0] > 0.1  # type: ignore[operator]


def test_a_kind_that_does_not_fit_costs_its_row(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(conditions: Conditions) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("benchmarks.gpu_check.parts.memory.dynunet_training_step", full)
    _, failed, inference, *_ = rows(tiny)
    assert failed.error == "OutOfMemoryError: CUDA out of memory"
    assert inference.value


def test_a_step_of_restoration_learns(tiny: Conditions) -> None:
    step = restoration_step(tiny)
    network = next(cell.cell_contents for cell in step.__closure__ if hasattr(cell.cell_contents, "restore"))  # type: ignore[attr-defined]
    before = [parameter.clone() for parameter in network.parameters()]
    step()
    assert any(bool((a != b).any()) for a, b in zip(before, network.parameters(), strict=True))
