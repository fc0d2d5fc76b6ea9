"""Every convolution of the default network is found and measured, here in small on the CPU."""

from __future__ import annotations

import json

import pytest

from benchmarks.convolutions import Convolution, Measured, convolutions, main, norms, run, table


def test_the_default_networks_convolutions() -> None:
    """At full resolution four of 3x3x3, which are most of the work, and the head."""
    found = convolutions((128, 128, 128), 2)
    full = {str(work): count for work, count in found.items() if work.out[2:] == (128, 128, 128)}
    assert full == {
        "3x3x3 1->32 at 128x128x128": 1,
        "3x3x3 32->32 at 128x128x128": 2,
        "2x2x2 64->32 at 64x64x64 stride 2x2x2 up": 1,
        "3x3x3 64->32 at 128x128x128": 1,
        "1x1x1 32->3 at 128x128x128": 1,
    }
    one = next(work for work in found if str(work) == "3x3x3 32->32 at 128x128x128")
    assert one.operations == 2 * 27 * 32 * 32 * 2 * 128**3
    assert one.values == 2 * 2 * 32 * 128**3 + 27 * 32 * 32
    assert norms((128, 128, 128), 2)[2, 32, 128, 128, 128] == 4


def test_an_up_sampling_counts_its_inputs_voxels() -> None:
    up = Convolution((64, 32, 2, 2, 2), (2, 2, 2), (0, 0, 0), True, (1, 64, 4, 4, 4), (1, 32, 8, 8, 8))
    assert up.operations == 2 * (64 * 32 * 8) * 64


def test_a_share_of_the_limit() -> None:
    """The slower of tensor cores and memory."""
    measured = Measured("cpu", 1)
    measured.limits = (1, 1)  # TFLOP/s, GB/s
    measured._seconds = lambda step: 0.5  # type: ignore[method-assign]
    row = measured._speed(lambda: None, 10**11, 10**8)
    assert row == {"ms": 500.0, "tflops": pytest.approx(0.2), "gbs": pytest.approx(0.2), "share": pytest.approx(0.2)}
    assert measured._speed(lambda: None, 0, 10**8)["tflops"] is None


def test_all_are_measured_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run("cpu", (16, 16, 16), repeats=1, batch=1)
    json.dumps(rows)
    assert all(
        row["ms"] > 0 and row["gbs"] > 0 and row["share"] is None and row["by"] in ("library", "own") for row in rows
    )
    assert {row["pass"] for row in rows} == {"forward", "input gradient", "weight gradient", "backward"}
    both = [row["layout"] for row in rows if row["what"] == "3x3x3 32->32 at 16x16x16" and row["pass"] == "forward"]
    assert both == ["NCDHW", "NDHWC"]
    assert not [row for row in rows if row["what"].startswith("3x3x3 1->32") and row["pass"] == "input gradient"]
    assert len(list(table(rows))) == len(rows) + 1
    assert main(["--patch", "8", "8", "8", "--batch_size", "1", "--repeats", "1", "--device", "cpu"]) == 0
    assert "3x3x3 32->32 at 8x8x8" in capsys.readouterr().out
