"""The DALI pipeline of patches: a source's ports, the graph behind them, its processes and its shared memory.

The pipeline runs endlessly over global steps (epoch * steps + step): it never ends an epoch, is never reset,
and prefetches across epochs. ``loader.py`` iterates over it.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def

from data_loading.augmentation.effect import Node
from data_loading.augmentation.pipeline import Augmentation
from data_loading.augmentation.warp import dali_warp_image, dali_warp_label
from data_loading.errors import LoaderError
from data_loading.sources.source import Source

PREFETCH = 2  # batches computed ahead
SHARED_MEMORY = Path("/dev/shm")

Graph = Callable[..., tuple[Node, ...]]


@dataclass(frozen=True, kw_only=True)
class Port:
    """One output of a source as DALI needs it: type, number of axes, layout ("" for plain numbers)."""

    dtype: Any
    ndim: int
    layout: str = ""


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """Everything a pipeline is built from.

    Attributes:
        ports: the source's outputs, in order.
        graph: takes their DALI nodes, all on the CPU, and returns those of the batch, on the device. It is
            traced under ``enable_conditionals``, so a plain ``if`` works by sample.
        names: keys of the batch, one an output of ``graph``.
        sample_bytes: the most that one sample of the source takes, for the check of /dev/shm.
        num_workers: processes that run the source; 0 runs it in this one.
        num_threads: DALI's own threads.
    """

    ports: tuple[Port, ...]
    graph: Graph
    names: tuple[str, ...]
    batch_size: int
    sample_bytes: int
    device_id: int | None = None
    num_workers: int = 0
    num_threads: int = 1

    @property
    def read_ahead(self) -> int:
        """Batches that the workers have at hand at once: enough for each to have a sample, and at least 2."""
        return max(2, math.ceil(self.num_workers / self.batch_size))


def build_pipeline(source: Source, spec: PipelineSpec, global_step: int) -> Any:
    """A running pipeline whose first batch is that of ``global_step``. Raises LoaderError without shared memory."""
    if spec.num_workers:
        check_shared_memory(spec)
    pipeline = _pipeline(
        source.at(global_step),
        spec,
        batch_size=spec.batch_size,
        num_threads=spec.num_threads,
        device_id=spec.device_id,
        prefetch_queue_depth=PREFETCH,
        py_num_workers=max(1, spec.num_workers),
        py_start_method="spawn",  # fork is refused once CUDA has started
    )
    with _uninterrupted_children():
        pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def _pipeline(source: Source, spec: PipelineSpec) -> tuple[Node, ...]:
    inputs = fn.external_source(
        source=source,
        num_outputs=len(spec.ports),
        batch=False,
        parallel=spec.num_workers > 0,
        prefetch_queue_depth=spec.read_ahead if spec.num_workers else None,
        dtype=[port.dtype for port in spec.ports],
        ndim=[port.ndim for port in spec.ports],
        layout=[port.layout for port in spec.ports],
    )
    return spec.graph(*inputs)


def finished_graph(*nodes: Node) -> tuple[Node, ...]:
    """Nothing is left to do: the source's arrays are the batch."""
    return nodes


def patch_graph(
    augmentation: Augmentation, *, shape: tuple[int, ...], in_plane: bool, labelled: bool, gpu: bool
) -> Graph:
    """The training graph: (image, [label,] parameters, matrix) of a PatchSource -> (image, [label]).

    Args:
        shape: (C, *axes) of a patch.
        in_plane: see Augmentation.apply_dali.
    """
    sides = shape[1:]

    def place(image: Node, parameters: Node, matrix: Node) -> Node:
        if parameters[0] > 0:
            image = dali_warp_image(image, matrix, sides)
        return augmentation.apply_dali(image, parameters[1:], shape, in_plane)

    def with_label(image: Node, label: Node, parameters: Node, matrix: Node) -> tuple[Node, ...]:
        image, label = (image.gpu(), label.gpu()) if gpu else (image, label)
        if parameters[0] > 0:
            label = dali_warp_label(label, matrix, sides)
        return place(image, parameters, matrix), label

    def without_label(image: Node, parameters: Node, matrix: Node) -> tuple[Node, ...]:
        return (place(image.gpu() if gpu else image, parameters, matrix),)

    return with_label if labelled else without_label


@contextmanager
def _uninterrupted_children() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which the terminal sends to them too: this one stops them.

    A blocked signal stays blocked in a new process; here it is only put off.
    """
    resource_tracker.ensure_running()  # where the first process to start does this, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_shared_memory(spec: PipelineSpec) -> None:
    """Raises LoaderError where /dev/shm has no room for what the workers hand over."""
    if not SHARED_MEMORY.is_dir():
        return
    stat = os.statvfs(SHARED_MEMORY)
    free, needed = stat.f_bavail * stat.f_frsize, shared_memory_bytes(spec)
    if free < needed:
        raise LoaderError(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, but {spec.num_workers} workers with batches of "
            f"{spec.batch_size} need about {needed / 2**20:.0f} MiB: start the container with --shm-size=8g, or set "
            "--num_workers 0"
        )


def shared_memory_bytes(spec: PipelineSpec) -> int:
    """An upper estimate: the batches in flight, twice, as DALI's buffers grow by doubling."""
    return 2 * (PREFETCH + spec.read_ahead) * spec.batch_size * spec.sample_bytes


def usable_workers(wanted: int) -> int:
    """At most one worker process for each core that this process may use."""
    return min(wanted, len(os.sched_getaffinity(0)))


def dali_threads() -> int:
    """Threads of DALI itself: what they compute beside the workers seldom fills more than four."""
    return usable_workers(4)
