"""The fused norm beside a copy, and the convolutions' own table."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import kernels


def test_the_norm_is_a_share_of_the_copys_rate(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "passes_per_second", lambda step, conditions: (step(), 5.0)[1])
    copy, forward, both = kernels.norm(tiny)
    gigabytes = 4 * 2 * 32 * 16**3 / 1e9
    assert copy.value == pytest.approx(2 * 5 * gigabytes)
    assert (forward.value, both.value) == (pytest.approx(3 / 2), pytest.approx(8 / 2))


def test_a_norm_without_kernels_says_so(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "fits", lambda x: False)
    (row,) = kernels.norm(tiny)
    assert "no Triton" in row.error


def test_convolutions_are_rows_and_their_failure_costs_them_alone(
    tiny: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType(kernels.CONVOLUTIONS)
    monkeypatch.setitem(sys.modules, kernels.CONVOLUTIONS, module)
    module.run = lambda device, sizes, repeats: [{"what": f"{sizes} {repeats}", "value": 1.5, "unit": "ms"}]
    found = [row for row in kernels.rows(tiny) if "norm" not in row.what and "copy" not in row.what]
    assert [(row.part, row.what, row.value) for row in found] == [("kernels", "(16, 16, 16) 2", 1.5)]

    def broken(*_: object) -> list[dict[str, Any]]:
        raise RuntimeError("launch failed")

    module.run = broken
    *norm, failed = kernels.rows(tiny)
    assert failed.error == "RuntimeError: launch failed"
    assert len(norm) == 3
