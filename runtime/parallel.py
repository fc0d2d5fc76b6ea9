"""One function over many cases, in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cases.volumes import formats_in_use, use_formats


class Named(Protocol):
    """Anything of one case."""

    @property
    def case(self) -> str: ...


Item = TypeVar("Item", bound=Named)
Result = TypeVar("Result", bound=Named)


class WorkerError(ValueError):
    """A process that was killed from outside, most likely for want of memory."""


def each(function: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """Results in the order in which they end; the processes read the same own file formats as this one.

    Raises:
        WorkerError: where a process was killed, naming cases that are missing.
    """
    waiting = {item.case: None for item in items}  # a set that keeps the order
    work = (joblib.delayed(_run)(function, item, formats_in_use()) for item in items)
    try:
        for result in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(work):
            del waiting[result.case]
            yield result
    except TerminatedWorkerError as error:
        names = ", ".join(list(waiting)[:jobs])
        raise WorkerError(
            f"a process was killed, most likely for want of memory; {len(waiting)} cases are missing, the next of them "
            f"{names}: run the same command again with a smaller --n_jobs, and finished cases are kept"
        ) from error


def _run(function: Callable[[Item], Result], item: Item, formats: tuple[str, ...]) -> Result:
    use_formats(formats)
    return function(item)
