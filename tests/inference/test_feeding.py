"""Windows are the volume's own, whichever way they come and however late a GPU copies them."""

import itertools
import threading
import time
from itertools import chain

import numpy as np
import pytest
import torch

from inference import feeding
from inference.feeding import feed, feed_ahead, settled
from inference.window_grid import WindowGrid
from tests.late_copies import late_copies
from tests.pretended_gpu import pretended_gpu

CPU, WINDOW = torch.device("cpu"), (8, 8, 12)
SHAPES = [(12, 16, 20), (30, 16, 20), (5, 40, 9), (5, 6, 7)]


def volume(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)


def grid_and_batches(shape, batch_size=4, *, full=False):
    grid = WindowGrid.over(shape, WINDOW, 0.5)
    return grid, [list(chain(*batch)) for batch in grid.batches(batch_size, full=full)]


def expected(image, grid, corners):
    margins = zip(grid.pad_before, grid.padded, grid.shape, strict=True)
    padded = np.pad(image, [(0, 0), *((before, big - n - before) for before, big, n in margins)])
    boxes = [tuple(slice(a, a + side) for a, side in zip(corner, WINDOW, strict=True)) for corner in corners]
    return torch.from_numpy(np.stack([padded[(slice(None), *box)] for box in boxes]).astype(np.float32))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("way", "full"), itertools.product((feed, feed_ahead), (False, True)))
@pytest.mark.parametrize("form", ["array", "half", "tensor"])
def test_windows_are_the_volumes(shape, way, full, form):
    image = volume(shape, np.float16 if form == "half" else np.float32)
    grid, batches = grid_and_batches(shape, full=full)
    source = torch.from_numpy(image) if form == "tensor" else image
    size = len(batches[0])
    for corners, windows in zip(batches, way(source, grid, batches, CPU, full=full), strict=True):
        assert windows.dtype == torch.float32
        assert len(windows) == (size if full else len(corners))
        assert torch.equal(windows[: len(corners)], expected(image, grid, corners))
        windows.fill_(9)  # a network may do so


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_reads_each_batch_however_late_it_is(shape):
    image = volume(shape)
    grid, batches = grid_and_batches(shape, 3, full=True)
    seen = []
    with late_copies() as gpu:
        for windows in feed_ahead(image, grid, batches, gpu.device, full=True):
            gpu.main.add(lambda windows=windows: seen.append(windows.clone()))
        gpu.main.finish()
        assert threading.current_thread().name not in gpu.waiting  # the host goes on asking for work
    assert len(seen) == len(batches)
    for corners, windows in zip(batches, seen, strict=True):
        assert torch.equal(windows[: len(corners)], expected(image, grid, corners))


def test_the_next_batch_is_cut_while_the_network_works():
    image, begun = volume((12, 16, 20)), []

    class Watched(np.ndarray):
        def __getitem__(self, place):
            begun.append(place)
            return np.asarray(super().__getitem__(place))

    grid, batches = grid_and_batches((12, 16, 20), 1)
    for number, _ in enumerate(feed_ahead(image.view(Watched), grid, batches, CPU, full=False)):
        for _ in range(200):
            if len(begun) == min(number + 2, len(batches)):
                break
            time.sleep(0.01)
        assert len(begun) == min(number + 2, len(batches))


def test_a_network_that_fails_leaves_no_thread_behind():
    grid, batches = grid_and_batches((12, 16, 20), 1)
    before = threading.active_count()
    windows = feed_ahead(volume((12, 16, 20)), grid, batches, CPU, full=False)
    next(windows)
    windows.close()
    assert threading.active_count() == before


def test_memory_made_in_inference_mode_is_filled_too():
    image = volume((12, 16, 20))
    grid, batches = grid_and_batches((12, 16, 20))
    with torch.inference_mode():
        (first, *_) = feed_ahead(torch.from_numpy(image), grid, batches[:1], CPU, full=False)
    assert torch.equal(first, expected(image, grid, batches[0]))


@pytest.mark.parametrize(("dtype", "size"), [(np.float16, 2), (np.float32, 4)])
def test_a_volume_settles_on_the_gpu_where_a_quarter_of_its_free_memory_holds_it(dtype, size):
    image = volume((12, 16, 20), dtype)
    with late_copies() as gpu:
        gpu.free_bytes = 4 * size * image.size
        there = settled(image, gpu.device)
        gpu.main.finish()
        assert isinstance(there, torch.Tensor)
        assert there.itemsize == size
        assert np.array_equal(there.numpy(), image)
        gpu.free_bytes -= 1
        assert settled(image, gpu.device) is image


def test_a_volume_that_is_there_stays_and_the_cpu_takes_windows_alone(monkeypatch):
    image = volume((12, 16, 20))
    monkeypatch.setattr(feeding, "upload", None)
    assert settled(image, CPU) is image
    with pretended_gpu():
        there = torch.empty(image.shape, device="cuda", dtype=torch.float16)
        assert settled(there, there.device) is there


def test_windows_of_a_settled_volume_are_cut_there_and_widened():
    grid, batches = grid_and_batches((12, 16, 20), full=True)
    with pretended_gpu() as gpu:
        there = torch.empty(2, 12, 16, 20, device="cuda", dtype=torch.float16)
        with gpu.busy():
            windows = list(feed(there, grid, batches, there.device, full=True))
        assert {(x.device.type, x.dtype, len(x)) for x in windows} == {("cuda", torch.float32, 4)}
    assert not gpu.copied
