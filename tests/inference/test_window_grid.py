from itertools import chain

import numpy as np
import pytest

from inference.window_grid import WindowGrid, axis_starts

SHAPES = [(12, 16, 20), (30, 16, 20), (5, 40, 9), (5, 6, 7)]


def test_window_places_end_with_the_volume():
    assert axis_starts(20, 8, 0.5) == (0, 4, 8, 12)
    assert axis_starts(21, 8, 0.5) == (0, 4, 8, 12, 13)
    assert axis_starts(5, 8, 0.5) == (0,)


@pytest.mark.parametrize("shape", SHAPES)
def test_inside_and_source_are_the_same_voxels(shape):
    grid = WindowGrid.over(shape, (8, 8, 12), 0.5)
    volume = np.arange(np.prod(shape)).reshape(shape) + 1
    margins = zip(grid.pad_before, grid.padded, shape, strict=True)
    padded = np.pad(volume, [(before, big - n - before) for before, big, n in margins])
    for corner in chain(*grid.groups(1)):
        window = np.zeros(grid.window, int)
        window[grid.inside] = volume[grid.source(corner)]
        assert np.array_equal(window, padded[tuple(slice(a, a + n) for a, n in zip(corner, grid.window, strict=True))])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 16, 100])
@pytest.mark.parametrize("full", [False, True])
def test_batches_hold_every_window_in_order(shape, batch_size, full):
    grid = WindowGrid.over(shape, (8, 8, 12), 0.5)
    groups = list(grid.groups(batch_size))
    batches = grid.batches(batch_size, full=full)
    assert [corner for batch in batches for part in batch for corner in part] == list(chain(*groups))
    sizes = [sum(map(len, batch)) for batch in batches]
    if full:
        assert set(sizes[:-1]) <= {batch_size}
        assert sizes[-1] <= batch_size
    else:
        assert all(len(batch) == 1 for batch in batches)  # no batch reaches into the next group
    for batch in batches:
        for part in batch:
            assert any(set(part) <= set(group) for group in groups)
