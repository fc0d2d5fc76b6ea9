"""The rule of halving, and the topologies that follow from it."""

import pytest

from cases.plan import halvings, topology


@pytest.mark.parametrize(
    ("side", "expected"), [(3, 0), (4, 0), (7.9, 0), (8, 1), (15.99, 1), (16, 2), (64, 4), (128, 5), (4096, 5)]
)
def test_a_side_is_halved_while_four_voxels_remain(side, expected):
    assert halvings(side) == expected


def test_the_limits_are_the_callers():
    assert halvings(4096, most=7) == 7
    assert halvings(64, min_fmap=8) == 3


@pytest.mark.parametrize("sides", [(16, 16, 32), (64, 128, 128), (4, 8)])
def test_a_topology_halves_by_the_same_rule(sides):
    total = topology(sides, (1.0,) * len(sides)).total_stride
    assert total == tuple(2 ** halvings(side) for side in sides)
