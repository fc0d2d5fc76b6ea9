"""The loader's benchmark measures two pipelines that load the same thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loader import LoaderBenchmark, baseline_pipeline, effects, run
from benchmarks.made_up import make_cases
from data_loading.augmentation.pipeline import EFFECTS

SMALL = LoaderBenchmark(patch_size=(8, 12, 16), volume_dhw=(20, 24, 28), cases=2, steps=2, warmup=1, rounds=2)


@pytest.mark.loader
def test_both_are_measured() -> None:
    result = run(SMALL)
    assert result["volume_mb"] == pytest.approx(4e-6 * 20 * 24 * 28)
    for name in ("ours", "baseline"):
        assert result[f"{name}_samples_per_core_s"] > 0
        assert result[f"{name}_samples_per_s"] > 0
    assert result["speedup"] > 0


@pytest.mark.loader
def test_each_effect_has_its_cost() -> None:
    cost = effects(replace(SMALL, rounds=1))
    assert cost.keys() == {"reading", *EFFECTS}
    assert cost["reading"] > 0


@pytest.mark.loader
def test_the_baseline_gives_batches_like_ours(tmp_path: Path) -> None:
    make_cases(tmp_path, SMALL.volume_dhw, SMALL.cases)
    labelled = 0
    pipeline = baseline_pipeline(tmp_path, SMALL)
    for _ in range(10):
        image, label = (output.as_array() for output in pipeline.run())
        assert image.shape == label.shape == (2, 1, 8, 12, 16)
        assert image.dtype == np.float32
        labelled += int((label > 0).any(axis=(1, 2, 3, 4)).sum())
    assert labelled >= 8  # 0.4 of 20 hold foreground by design, others by chance
