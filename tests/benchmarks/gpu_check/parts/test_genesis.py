"""Pairs of Models Genesis."""

from __future__ import annotations

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts.genesis import rows


def test_pairs_are_counted_alone_and_from_the_loader(tiny: Conditions) -> None:
    alone, loaded = rows(tiny)
    assert (alone.what, loaded.what) == ("transformations alone", "from the loader")
    for row in (alone, loaded):
        assert isinstance(row.value, float) and row.value > 0
        assert row.unit == "pairs/s"
        assert row.note.startswith("batch 16 of 16x16x16, 2 channels")
