"""A killed process is an error that says which cases are missing."""

import os
import signal
from dataclasses import dataclass

import pytest

from runtime.parallel import WorkerError, each


@dataclass(frozen=True)
class Item:
    case: str


def kill_yourself(item):
    if item.case == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_results_come_from_every_item():
    items = [Item(str(i)) for i in range(5)]
    assert sorted(result.case for result in each(kill_yourself, items, 1)) == ["0", "1", "2", "3", "4"]


def test_a_killed_process_is_named():
    with pytest.raises(WorkerError, match=r"1 cases are missing, the next of them fatal: .*smaller --n_jobs"):
        list(each(kill_yourself, [Item("fatal")], 2))
