"""Reading one item ahead of its consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[tuple[Item, Future[Read]]]:
    """Each item with its reading, which is finished; the next one's has begun. Two items in memory at most.

    What ``read`` raises comes out of the future's ``result``, so that a bad item need not cost the others.
    """
    with ThreadPoolExecutor(max_workers=1) as reader:
        readings = ((item, reader.submit(read, item)) for item in items)
        current = next(readings, None)
        while current is not None:
            current[1].exception()  # wait here, so that the next one starts when this one is read
            following = next(readings, None)
            yield current
            current = following
