"""Reading ahead: one item and no more, each fault with its own item, nothing kept."""

from __future__ import annotations

import gc
import time
import weakref

import pytest

from runtime.ahead import read_ahead


class Volume:
    """Something that can be referred to weakly."""


def test_every_item_comes_with_its_reading_in_order() -> None:
    assert [(item, future.result()) for item, future in read_ahead(lambda i: i * i, range(5))] == [
        (i, i * i) for i in range(5)
    ]
    assert list(read_ahead(abs, [])) == []


def test_one_item_is_read_ahead_and_no_more() -> None:
    begun: list[int] = []
    for item, future in read_ahead(begun.append, iter(range(5))):
        assert future.done()
        for _ in range(200):
            if len(begun) == min(item + 2, 5):
                break
            time.sleep(0.01)
        assert begun == list(range(min(item + 2, 5)))


def test_a_fault_comes_with_its_own_item_alone() -> None:
    outcomes = []
    for item, future in read_ahead(lambda i: 6 // i, [1, 0, 2]):
        try:
            outcomes.append(future.result())
        except ZeroDivisionError:
            outcomes.append(f"fault of {item}")
    assert outcomes == [6, "fault of 0", 3]


def test_two_items_at_most_stay_in_memory() -> None:
    living: weakref.WeakSet[Volume] = weakref.WeakSet()

    def read(_: int) -> Volume:
        gc.collect()
        volume = Volume()
        living.add(volume)
        assert len(living) <= 2
        return volume

    for _, future in read_ahead(read, range(6)):
        volume = future.result()
        del future, volume


def test_a_consumer_that_stops_leaves_no_thread_behind() -> None:
    items = read_ahead(lambda i: i, range(1000))
    assert next(items)[0] == 0
    items.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(items)
