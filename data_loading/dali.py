"""The DALI pipeline of patches: a source's ports, the graph behind them, its processes and its shared memory.

The pipeline runs endlessly over global steps (epoch * steps + step): it never ends an epoch, is never reset,
and prefetches across epochs. ``loader.py`` iterates over it.
"""

from __future__ import annotations

import math
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types

from data_loading.augmentation.effect import Node
from data_loading.augmentation.pipeline import Augmentation
from data_loading.augmentation.warp import dali_warp_image, dali_warp_label
from data_loading.errors import LoaderError
from data_loading.sources.source import InWorker, Source

PREFETCH = 2  # batches computed ahead
SHARED_MEMORY = Path("/dev/shm")
DESCRIPTION = 4096  # bytes beside a sample's arrays: their alignment to 128, shapes and types, DALI's message

# Pipelines that run in this process, with the shared memory that each may come to hold.
_running: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

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
        sample_bytes: the most that one sample of the source takes: so much shared memory is laid out for it.
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
        """Batches that the workers have at hand at once: two samples for each worker.

        Batches are taken in order. A worker whose sample is done goes on only where another is at hand, and a warped
        patch takes several times as long as a plain one, for which the others would wait.
        """
        return 2 * math.ceil(self.num_workers / self.batch_size)

    @property
    def sample_room(self) -> int:
        """Bytes of shared memory for one sample."""
        return self.sample_bytes + DESCRIPTION


def build_pipeline(source: Source, spec: PipelineSpec, global_step: int, *, local_ranks: int = 1) -> Any:
    """A running pipeline whose first batch is that of ``global_step``.

    Args:
        local_ranks: processes of this machine that each build such a pipeline.

    Raises:
        LoaderError: where shared memory would not do.
    """
    if spec.num_workers:
        check_shared_memory(spec, local_ranks)
    pipeline = _pipeline(
        source.at(global_step),
        spec,
        batch_size=spec.batch_size,
        num_threads=spec.num_threads,
        device_id=spec.device_id,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,  # what DALI 2 does anyway: buffers are returned once used, and GPU outputs may feed the CPU
        py_num_workers=max(1, spec.num_workers),
        py_start_method="spawn",  # fork is refused once CUDA has started
    )
    with _uninterrupted_children():
        pipeline.build()
    if spec.num_workers:
        _running[pipeline] = shared_memory_bytes(spec)
    return pipeline


@pipeline_def(enable_conditionals=True)
def _pipeline(source: Source, spec: PipelineSpec) -> tuple[Node, ...]:
    inputs = fn.external_source(
        source=InWorker(source) if spec.num_workers else source,
        num_outputs=len(spec.ports),
        batch=False,
        parallel=spec.num_workers > 0,
        prefetch_queue_depth=spec.read_ahead if spec.num_workers else None,
        bytes_per_sample_hint=spec.sample_room if spec.num_workers else None,
        dtype=[port.dtype for port in spec.ports],
        ndim=[port.ndim for port in spec.ports],
        layout=[port.layout for port in spec.ports],
    )
    return spec.graph(*inputs)


def finished_graph(*nodes: Node) -> tuple[Node, ...]:
    """Nothing is left to do: the source's arrays are the batch."""
    return nodes


def to_gpu(node: Node) -> Node:
    """A source's output on the GPU, through pinned memory.

    The workers' shared memory is pageable, and DALI hands it on as it is: a copy from there to the GPU would hold up
    the executor. What an operator of the CPU makes for the GPU lies in pinned memory.
    """
    return fn.copy(node).gpu()


def patch_graph(
    augmentation: Augmentation, *, shape: tuple[int, ...], in_plane: bool, labelled: bool, half: bool, gpu: bool
) -> Graph:
    """The training graph: (image, [label,] parameters, matrix) of a PatchSource -> (image, [label]).

    What no setting lets happen is not in it.

    Args:
        shape: (C, *axes) of a patch.
        in_plane: see Augmentation.apply_dali.
        half: the image comes as float16, and is widened on the device.
    """
    sides, warps = shape[1:], augmentation.warps

    def place(image: Node, parameters: Node, matrix: Node) -> Node:
        image = to_gpu(image) if gpu else image
        if half:
            image = fn.cast(image, dtype=types.DALIDataType.FLOAT)
        if warps:  # noqa: SIM102 - DALI traces the inner one
            if parameters[0] > 0:
                image = dali_warp_image(image, matrix, sides)
        return augmentation.apply_dali(image, parameters[1:], shape, in_plane)

    def with_label(image: Node, label: Node, parameters: Node, matrix: Node) -> tuple[Node, ...]:
        label = to_gpu(label) if gpu else label
        if warps:  # noqa: SIM102 - DALI traces the inner one
            if parameters[0] > 0:
                label = dali_warp_label(label, matrix, sides)
        return place(image, parameters, matrix), label

    def without_label(image: Node, parameters: Node, matrix: Node) -> tuple[Node, ...]:
        return (place(image, parameters, matrix),)

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


def check_shared_memory(spec: PipelineSpec, local_ranks: int = 1) -> None:
    """Raises LoaderError where /dev/shm has no room for what the workers of all ``local_ranks`` hand over.

    The ranks start together and their buffers fill later, so each asks whether all would fit into the whole of it.
    """
    if not SHARED_MEMORY.is_dir():
        return
    stat = os.statvfs(SHARED_MEMORY)
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    needed = shared_memory_bytes(spec)
    together = local_ranks * (needed + sum(_running.values()))
    if needed <= free and together <= size:
        return
    raise LoaderError(
        f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free of {size / 2**20:.0f}, but {local_ranks} ranks on this "
        f"machine need up to {together / 2**20:.0f} MiB: {spec.num_workers} workers each, with batches of "
        f"{spec.batch_size} and up to {spec.sample_bytes / 2**20:.1f} MiB a sample. Start the container with "
        f"--shm-size={math.ceil(together * 1.1 / 2**30)}g or --ipc=host, or lower --num_workers or --batch_size; "
        "--num_workers 0 needs none"
    )


def shared_memory_bytes(spec: PipelineSpec) -> int:
    """What the workers of one rank come to take in the end, when every buffer has held its largest samples.

    DALI keeps a buffer for each batch that it reads ahead and for each that its pipeline still holds, and each worker
    writes its share of the batch. Buffers are laid out for the largest sample, so none ever grows; pages count once
    they are written.
    """
    writers = min(spec.num_workers, spec.batch_size)
    return (PREFETCH + spec.read_ahead) * (spec.batch_size * spec.sample_room + writers * DESCRIPTION)


def usable_workers(wanted: int) -> int:
    """At most one worker process for each core that this process may use."""
    return min(wanted, len(os.sched_getaffinity(0)))


def dali_threads() -> int:
    """Threads of DALI itself: what they compute beside the workers seldom fills more than four."""
    return usable_workers(4)
