"""A GPU whose streams do their work as late as they may, on tensors of the host.

A real GPU may do what it was asked for at once, or much later: code that forgets to wait is right most of the time.
Here work is done only when an event or a stream demands it, so that a forgotten wait shows as wrong values.

::

    with late_copies() as gpu:
        volume = upload(array, gpu.device)
        gpu.main.finish()

``gpu.main`` is the computation's stream. With ``eager`` it does its work, and what this waits for, at once: then whole
computations run, as they come. Only copies made under ``torch.cuda.stream`` are put off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor

CREATORS = ("torch.zeros", "torch.ones", "torch.empty", "torch.arange", "torch.empty_like")


class LateStream:
    """Work in order, done up to the place that somebody waits for."""

    def __init__(self, _: object = None, *, eager: bool = False) -> None:
        self.work: list[Callable[[], object]] = []
        self.done = 0
        self.eager = eager

    def add(self, job: Callable[[], object]) -> None:
        self.work.append(job)
        if self.eager:
            self.finish()

    def finish(self, upto: int | None = None) -> None:
        while self.done < (len(self.work) if upto is None else upto):
            self.done += 1
            self.work[self.done - 1]()

    def wait_event(self, event: LateEvent) -> None:
        stream, place = event.stream, event.place
        self.add(lambda: stream and stream.finish(place))

    def wait_stream(self, other: LateStream) -> None:
        place = len(other.work)
        self.add(lambda: other.finish(place))


class LateEvent:
    """A place in a stream's work; before it is recorded, nothing to wait for."""

    waiting: ClassVar[list[str]] = []  # names of the threads that waited

    def __init__(self, **_: bool) -> None:
        self.stream: LateStream | None = None
        self.place = 0

    def record(self, stream: LateStream) -> None:
        self.stream, self.place = stream, len(stream.work)

    def synchronize(self) -> None:
        LateEvent.waiting.append(threading.current_thread().name)
        if self.stream:
            self.stream.finish(self.place)


@dataclass
class LateGPU:
    """What tests look at: the computation's stream, and in ``shared`` with which streams memory is shared."""

    main: LateStream
    device: torch.device
    free_bytes: int = 2**40
    shared: list[tuple[Tensor, LateStream]] = field(default_factory=list)

    @property
    def waiting(self) -> list[str]:
        """Names of the threads that waited for an event."""
        return LateEvent.waiting


@contextmanager
def late_copies(*, eager: bool = False) -> Iterator[LateGPU]:
    """Stand-ins for what ``torch.cuda`` and tensors do with streams, pinned memory and a device."""
    from runtime.transfer import side_stream

    gpu = LateGPU(LateStream(eager=eager), torch.device("cuda", 0))
    active = threading.local()
    copy, to = Tensor.copy_, Tensor.to

    @contextmanager
    def on(stream: LateStream) -> Iterator[None]:
        before, active.stream = getattr(active, "stream", None), stream
        yield
        active.stream = before

    def copied(target: Tensor, source: Tensor, **_: bool) -> Tensor:
        stream = getattr(active, "stream", None)
        if stream is None:
            return copy(target, source)
        stream.add(torch.inference_mode()(lambda: copy(target, source)))
        return target

    def moved(tensor: Tensor, *args: Any, **others: Any) -> Tensor:
        return tensor if args and args[0] == gpu.device else to(tensor, *args, **others)

    def on_host(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, device: object = None, pin_memory: bool = False, **others: Any) -> Tensor:
            return create(*args, **others)

        return made

    answers: dict[str, Any] = {
        "torch.cuda.Stream": LateStream,
        "torch.cuda.Event": LateEvent,
        "torch.cuda.stream": on,
        "torch.cuda.current_stream": lambda _: gpu.main,
        "torch.cuda.mem_get_info": lambda _: (gpu.free_bytes, 2**40),
        "torch.Tensor.copy_": copied,
        "torch.Tensor.to": moved,
        "torch.Tensor.pin_memory": lambda tensor: tensor,
        "torch.Tensor.record_stream": lambda tensor, stream: gpu.shared.append((tensor, stream)),
    }
    answers |= {name: on_host(getattr(torch, name.removeprefix("torch."))) for name in CREATORS}
    LateEvent.waiting = []
    side_stream.cache_clear()
    patches = [mock.patch(name, answer) for name, answer in answers.items()]
    for patch in patches:
        patch.start()
    try:
        yield gpu
    finally:
        for patch in patches:
            patch.stop()
        side_stream.cache_clear()
