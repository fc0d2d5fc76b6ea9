"""Settings of a measurement that cannot be used."""

import pytest

from benchmarks.measure import MeasureSettings
from cases.settings import SettingsError


def test_nothing_left_to_measure_is_refused() -> None:
    with pytest.raises(SettingsError, match="5 batches leave nothing to measure after --warmup 5"):
        MeasureSettings(mode="genesis", train_batches=5, warmup=5)


def test_parts_that_there_are_not_are_named() -> None:
    with pytest.raises(SettingsError, match="--parts genesis lunch names lunch, which is none of loader"):
        MeasureSettings(mode="check", parts=("genesis", "lunch"))
