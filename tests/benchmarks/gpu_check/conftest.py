"""Conditions under which every part takes seconds on a CPU."""

from __future__ import annotations

import pytest

from benchmarks.gpu_check.conditions import Conditions


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Conditions:
    return Conditions(
        folder=tmp_path_factory.mktemp("check"),
        volume_dhw=(20, 24, 28),
        patch_size=(16, 16, 16),
        channels=2,
        classes=3,
        filters=(4, 8, 16),
        amp=False,
        batch_size=2,
        windows=2,
        steps=2,
        warmup=1,
        rounds=1,
        workers=0,
        limit=60,
    )
