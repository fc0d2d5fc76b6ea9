"""Rows of the peers' table."""

from __future__ import annotations

import pytest

from benchmarks.peers.comparison import compare, scaled, take_turns, whole_eighths


def test_ratios_are_medians_over_the_rounds() -> None:
    rows = compare("part", "what", {"ours": [1.0, 2.0, 4.0], "a": [2.0, 8.0, 4.0], "b": [1.0, 1.0, 1.0]}, unit="s")
    assert [(row.peer, row.ours, row.theirs, row.ratio) for row in rows] == [("a", 2, 4, 2), ("b", 2, 1, 0.5)]


def test_works_take_turns() -> None:
    done: list[str] = []
    seconds = take_turns({name: lambda name=name: done.append(name) for name in "ab"}, rounds=2)
    assert done == ["a", "b"] * 3  # the first ones warm up
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(("scale", "sides"), [(1, (100, 513, 40)), (0.5, (50, 256, 20)), (0.1, (16, 50, 16))])
def test_volumes_shrink_to_even_sides(scale: float, sides: tuple[int, int, int]) -> None:
    assert scaled((100, 513, 40), scale) == sides


def test_networks_get_sides_in_whole_eighths() -> None:
    assert whole_eighths((100, 30, 9), 0.5) == (48, 8, 8)
