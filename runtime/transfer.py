"""Between host and GPU: through pinned memory, on streams of their own, and without holding up the computation.

A copy from or to pageable memory makes the host wait for all that the GPU was asked to do before. Here only helping
threads ever wait. Elsewhere than on a GPU everything is a plain copy, or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

PIECE = 2**24  # bytes of an upload's pinned pieces, unless a single plane has more
IN_FLIGHT = 2**30  # bytes of pinned memory that landings may take
STORED = {np.dtype(np.uint8): torch.uint8, np.dtype(np.float16): torch.float16}  # types that a GPU gets as they are


@lru_cache(maxsize=16)  # one for all: memory is cached by stream
def side_stream(device: torch.device, direction: Literal["to", "from"]) -> torch.cuda.Stream:
    """The stream on which copies to, or from, a GPU run beside the computation."""
    return torch.cuda.Stream(device)


def with_index(device: torch.device | str) -> torch.device:
    """The device with its number, as other threads need it: "the current one" is another in each thread."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the host on the device."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def upload(array_cdhw: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """A volume of the host, or a memory map, on a GPU: types of ``STORED`` as they are, everything else as float32.

    It passes two small pinned buffers, one being filled while the other is copied. The calling thread waits for the
    copies, never for the computation; what the calling thread's stream does next comes after the copies.
    """
    array = array_cdhw.numpy() if isinstance(array_cdhw, Tensor) else array_cdhw
    stream, dtype = side_stream(device, "to"), STORED.get(array.dtype, torch.float32)
    plane_bytes = array.shape[2] * array.shape[3] * dtype.itemsize
    planes = min(array.shape[1], max(1, PIECE // plane_bytes))
    buffers = [torch.empty(planes, *array.shape[2:], dtype=dtype, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event(blocking=True) for _ in buffers]
    with torch.cuda.stream(stream):  # its own memory, which no unfinished computation uses
        volume = torch.empty(array.shape, dtype=dtype, device=device)
        for number, (channel, low, high) in enumerate(_pieces(array.shape, planes)):
            buffer, done = buffers[number % 2][: high - low], copied[number % 2]
            done.synchronize()
            buffer.numpy()[...] = array[channel, low:high]
            volume[channel, low:high].copy_(buffer, non_blocking=True)
            done.record(stream)
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    volume.record_stream(current)
    return volume


def _pieces(shape: tuple[int, ...], planes: int) -> Iterator[tuple[int, int, int]]:
    for channel in range(shape[0]):
        for low in range(0, shape[1], planes):
            yield channel, low, min(low + planes, shape[1])


class Landing:
    """Tensors of a GPU on their way into arrays of the host; complete after :meth:`wait`.

    A GPU's stream of copies takes them to pinned memory, and a thread from there to their place. :meth:`put` waits
    only where ``IN_FLIGHT`` bytes are under way. Tensors of the host are copied at once.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)  # it starts with the first work
        self._flights: deque[tuple[int, Future[None]]] = deque()

    def put(self, target: np.ndarray, tensor: Tensor) -> None:
        """Copy a tensor that nobody writes to any more into an array of its shape."""
        if tensor.device.type == "cuda":
            self._take_off(target, tensor.contiguous())
        else:
            target[...] = tensor.cpu().numpy()

    def _take_off(self, target: np.ndarray, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.itemsize
        while self._flights and size + sum(flight for flight, _ in self._flights) > IN_FLIGHT:
            self._flights.popleft()[1].result()
        stream = side_stream(tensor.device, "from")
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        arrived = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(stream):
            pinned.copy_(tensor, non_blocking=True)
            arrived.record(stream)
        tensor.record_stream(stream)
        self._flights.append((size, self._thread.submit(_unload, arrived, pinned, target)))

    def wait(self) -> None:
        """Until every tensor has arrived. Raises what went wrong with one."""
        while self._flights:
            self._flights.popleft()[1].result()
        self._thread.shutdown()


def _unload(arrived: torch.cuda.Event, pinned: Tensor, target: np.ndarray) -> None:
    arrived.synchronize()
    target[...] = pinned.numpy()
