"""The loader before a device that is a clock."""

from __future__ import annotations

import pytest

from benchmarks.feeding import BUSY, FeedingSettings, main, run


def test_each_combination_has_its_costs_and_its_rate(capsys: pytest.CaptureFixture[str]) -> None:
    settings = FeedingSettings(
        patch_size=(16, 16, 16), channels=(2,), megabytes=(1,), dtypes=("float32", "float16"), workers=(1,), batches=8
    )
    whole, half = run(settings)
    assert (whole.dtype, half.dtype) == ("float32", "float16")
    assert 0.5 < half.sample_mb / whole.sample_mb < 0.6  # the label takes a byte in both
    for fed in (whole, half):
        rate, idle = fed.measured[1]
        assert 0 < rate <= 1.01 * 2 / 0.0087 and 0 <= idle < 1
        needed = BUSY / 0.0087 * (2 * fed.worker_ms + fed.main_ms) / 1000
        assert fed.cores == pytest.approx(needed)
    small = "--patch_size 16 16 16 --channels 1 --megabytes 1 --dtypes float32 --workers 1 --batches 4"
    assert main(small.split()) == 0
    assert "1 x 1 MB float32" in capsys.readouterr().out
