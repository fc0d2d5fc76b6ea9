"""Batches of windows cut out of a volume, on the device of the network.

Where the volume lies on that device, cutting is all: a few microseconds a window. From the host's memory to a GPU, a
thread cuts one batch ahead into pinned memory and a stream of its own copies it, while the network works on the batch
before; no window is made to wait for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from inference.window_grid import Corner, WindowGrid
from runtime.ahead import read_ahead
from runtime.transfer import STORED, side_stream, upload

SHARE = 0.25  # of a GPU's free memory that a volume may take; the rest is for slab, windows and activations
Volume = np.ndarray | Tensor


def settled(image_cdhw: Volume, device: torch.device) -> Volume:
    """The volume on the GPU, in the type it is stored in, where it takes at most ``SHARE`` of what is free there.

    Otherwise, and for the CPU, the volume as it is.
    """
    if device.type != "cuda" or (isinstance(image_cdhw, Tensor) and image_cdhw.device.type != "cpu"):
        return image_cdhw
    array = np.asarray(image_cdhw)
    itemsize = STORED.get(array.dtype, torch.float32).itemsize
    free, _ = torch.cuda.mem_get_info(device)
    return upload(image_cdhw, device) if array.size * itemsize <= SHARE * free else image_cdhw


def feed(
    image_cdhw: Volume, grid: WindowGrid, batches: Sequence[Sequence[Corner]], device: torch.device, *, full: bool
) -> Iterator[Tensor]:
    """Each batch of windows, float32 (N, C, *window) on the device, zeros where they leave the volume.

    The memory of a batch is used again: it holds until the next batch is asked for.

    Args:
        image_cdhw: on the host, or on a device.
        grid: of the windows.
        batches: corners of the windows.
        device: of the network.
        full: all batches have the size of the first. Surplus windows at the end of the last one hold older ones.
    """
    home = image_cdhw.device if isinstance(image_cdhw, Tensor) else torch.device("cpu")
    if home.type == "cpu" and device.type == "cuda":
        yield from feed_ahead(image_cdhw, grid, batches, device, full=full)
        return
    windows = torch.zeros(len(batches[0]), image_cdhw.shape[0], *grid.window, device=home)
    for corners in batches:
        _cut(image_cdhw, grid, corners, windows)
        yield windows[: len(windows) if full else len(corners)].to(device)


def feed_ahead(
    image_cdhw: Volume, grid: WindowGrid, batches: Sequence[Sequence[Corner]], device: torch.device, *, full: bool
) -> Iterator[Tensor]:
    """The same for a volume of the host, the next batch being cut and copied meanwhile; any device will do."""
    rooms = [_Room(len(batches[0]), image_cdhw.shape[0], grid, device) for _ in range(2)]

    def fill(number: int) -> _Room:
        room = rooms[number % 2]  # free: the batch before the last is done with when the last is asked for
        room.fill(image_cdhw, batches[number])
        return room

    for number, filled in read_ahead(fill, range(len(batches))):
        room = filled.result()
        yield room.windows()[: len(batches[0]) if full else len(batches[number])]
        room.release()


def _cut(image_cdhw: Volume, grid: WindowGrid, corners: Sequence[Corner], windows: Tensor) -> None:
    """Copy the windows that begin at the corners, zeros where they leave the volume."""
    if grid.padded != grid.shape:
        windows.zero_()
    for window, corner in zip(windows, corners, strict=False):
        target, source = window[(slice(None), *grid.inside)], image_cdhw[(slice(None), *grid.source(corner))]
        if isinstance(source, np.ndarray):
            target.numpy()[...] = source
        else:
            target.copy_(source)


class _Room:
    """Memory of one batch on the host and, where that is another, on the device.

    Two events tell when each may be written again: ``copied`` for the host's, ``used`` for the device's.
    """

    def __init__(self, size: int, channels: int, grid: WindowGrid, device: torch.device) -> None:
        self.grid, self.device, self.gpu = grid, device, device.type == "cuda"
        self.host = self.there = torch.zeros(size, channels, *grid.window, pin_memory=self.gpu)
        if not self.gpu:
            return
        self.stream = side_stream(device, "to")
        self.there = torch.empty_like(self.host, device=device)
        self.there.record_stream(self.stream)
        self.copied, self.used = torch.cuda.Event(blocking=True), torch.cuda.Event()
        self.release()  # from here on the device's memory is this batch's

    @torch.inference_mode()  # a thread's own: in it, memory made in inference mode may be written, and any other too
    def fill(self, image_cdhw: Volume, corners: Sequence[Corner]) -> None:
        """Cut windows and have them copied; waits for this room's copy before, and for nothing else."""
        if self.gpu:
            self.copied.synchronize()
        _cut(image_cdhw, self.grid, corners, self.host)
        if self.gpu:
            with torch.cuda.stream(self.stream):
                self.stream.wait_event(self.used)
                self.there.copy_(self.host, non_blocking=True)
                self.copied.record(self.stream)

    def windows(self) -> Tensor:
        """On the device, for what the current stream does next."""
        if self.gpu:
            torch.cuda.current_stream(self.device).wait_event(self.copied)
        return self.there

    def release(self) -> None:
        """All that reads the windows has been asked for."""
        if self.gpu:
            self.used.record(torch.cuda.current_stream(self.device))
