"""The fused norm beside a copy, and the convolutions' own table."""

from __future__ import annotations

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
    asked: list[dict[str, Any]] = []

    def form(layout: str, by: str, ms: float, share: float | None) -> dict[str, Any]:
        words = {"what": "32 to 32, 3x3x3", "pass": "forward", "layout": layout, "by": by}
        return words | {"count": 4, "ms": ms, "tflops": 1.0, "gbs": 2.0, "share": share}

    def run(**given: Any) -> list[dict[str, Any]]:
        asked.append(given)
        return [form("NCDHW", "library", 3.0, None), form("NDHWC", "library", 2.0, 0.3), form("NDHWC", "own", 1.5, 0.4)]

    monkeypatch.setattr(kernels, "run", run)
    found = [row for row in kernels.rows(tiny) if not row.what.startswith(("fused norm", "copy"))]
    assert asked == [{"device": "cpu", "sizes": (16, 16, 16), "repeats": 1, "batch": 2}]
    assert [(row.part, row.value, row.unit) for row in found] == [("kernels", 1.5, "ms"), ("kernels", 6.0, "ms")]
    assert found[0].what == "32 to 32, 3x3x3, forward"
    assert found[0].note == (
        "4 times, NDHWC by ours, 40 % of the limit; NCDHW by the library 3 ms; NDHWC by the library 2 ms"
    )
    assert found[1].note == "at most 333 images/s with these kernels"

    def broken(**_: object) -> list[dict[str, Any]]:
        raise RuntimeError("launch failed")

    monkeypatch.setattr(kernels, "run", broken)
    *norm, failed = kernels.rows(tiny)
    assert failed.error == "RuntimeError: launch failed"
    assert len(norm) == 3
