"""The DALI pipeline of patches and the one iterator over it.

The pipeline runs endlessly over global steps (epoch * steps + step): it never ends an epoch, is never reset,
and prefetches across epochs. The iterator owns the epoch, so its length is fixed and true.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import feed_ndarray

from data_loading.augmentation import pipeline as augmentation
from data_loading.errors import LoaderError

PREFETCH = 2  # batches computed ahead
SHARED_MEMORY = Path("/dev/shm")

Node = Any  # DALI's DataNode
Batch = dict[str, torch.Tensor]
TORCH_TYPES = {
    types.DALIDataType.FLOAT: torch.float32,
    types.DALIDataType.UINT8: torch.uint8,
    types.DALIDataType.INT32: torch.int32,
    types.DALIDataType.INT64: torch.int64,
}


class Source(Protocol):
    """What feeds a pipeline: a callable that the workers unpickle, one call a sample."""

    def __call__(self, info: Any) -> tuple[Any, ...]: ...

    def at(self, global_step: int) -> Source: ...


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
    graph: Callable[..., tuple[Node, ...]]
    names: tuple[str, ...]
    batch_size: int
    sample_bytes: int
    device_id: int | None = None
    num_workers: int = 0
    num_threads: int = 1


@pipeline_def(enable_conditionals=True)
def _pipeline(source: Source, spec: PipelineSpec) -> tuple[Node, ...]:
    inputs = fn.external_source(
        source=source,
        num_outputs=len(spec.ports),
        batch=False,
        parallel=spec.num_workers > 0,
        dtype=[port.dtype for port in spec.ports],
        ndim=[port.ndim for port in spec.ports],
        layout=[port.layout for port in spec.ports],
    )
    return spec.graph(*inputs)


def finished_graph(*nodes: Node) -> tuple[Node, ...]:
    """Nothing is left to do: the source's arrays are the batch."""
    return nodes


def patch_graph(
    *, shape: tuple[int, ...], in_plane: bool, labelled: bool, gpu: bool
) -> Callable[..., tuple[Node, ...]]:
    """The training graph: (image, [label,] parameters, matrix, seed) of a PatchSource -> (image, [label]).

    Args:
        shape: (C, *axes) of a patch.
        in_plane: see augmentation.augment_intensity.
    """
    sides = shape[1:]

    def place(image: Node, parameters: Node, matrix: Node, seed: Node) -> Node:
        if parameters[0] > 0:
            image = augmentation.warp_image(image, matrix, sides)
        if parameters[1] > 0:
            image = augmentation.add_noise(image, seed, parameters[1], shape)
        return augmentation.augment_intensity(image, parameters[2:], shape, in_plane)

    def with_label(image: Node, label: Node, parameters: Node, matrix: Node, seed: Node) -> tuple[Node, ...]:
        image, label = (image.gpu(), label.gpu()) if gpu else (image, label)
        if parameters[0] > 0:
            label = augmentation.warp_label(label, matrix, sides)
        return place(image, parameters, matrix, seed), label

    def without_label(image: Node, parameters: Node, matrix: Node, seed: Node) -> tuple[Node, ...]:
        return (place(image.gpu() if gpu else image, parameters, matrix, seed),)

    return with_label if labelled else without_label


class PatchLoader:
    """Iterates over batches: dicts of torch tensors on the pipeline's device, each the consumer's to keep.

    ``len(loader)`` batches an epoch, whatever happened before. ``iter(loader)`` begins the present epoch at
    its start, after :meth:`load_state_dict` at the saved step; running to the end moves on to the next epoch,
    and so does :meth:`set_epoch`, which Lightning calls through the attribute ``sampler`` before an epoch.
    The pipeline is rebuilt only where the next batch is not the one that it prefetches anyway: after an
    interrupted epoch and on resuming. Use as a context manager, or call :meth:`close`.

    Attributes:
        wait_seconds: time spent waiting for batches since the loader was made; the caller may reset it.

    Args:
        identity: numbers that decide the batches (seed, batch size, ranks ...); a saved state from within an
            epoch is refused where they differ.
        constant: repeat the first batch of the run, without loading; for benchmarks.
    """

    def __init__(
        self,
        source: Source,
        spec: PipelineSpec,
        *,
        steps: int,
        identity: dict[str, int | str] | None = None,
        constant: bool = False,
    ) -> None:
        if steps < 1:
            raise LoaderError(f"{steps} steps an epoch: at least 1 is needed")
        self.wait_seconds = 0.0
        self.sampler = self  # where Lightning looks for set_epoch
        self._source, self._spec, self._steps = source, spec, steps
        self._identity = identity or {}
        self._epoch, self._step, self._resume = 0, 0, 0
        self._run: Any = None  # the pipeline
        self._next_step = -1  # global step of its next batch
        self._constant: Batch | None = None
        self._repeats = constant

    def __len__(self) -> int:
        return self._steps

    def __enter__(self) -> PatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; no effect where it is the present one."""
        if epoch != self._epoch:
            self._epoch, self._step, self._resume = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, JSON-able; Lightning puts it into its checkpoints."""
        return {"epoch": self._epoch, "step": self._step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where a saved state was. Raises LoaderError if it lies within an epoch of other settings."""
        known = {key: state.get(key) for key in self._identity}
        if known != self._identity and 0 < state["step"] < self._steps:
            changed = ", ".join(f"{k} {known[k]} -> {v}" for k, v in self._identity.items() if known[k] != v)
            raise LoaderError(f"cannot resume in the middle of an epoch with other settings: {changed}; restore them")
        self._epoch, self._step, self._resume = state["epoch"], state["step"], state["step"]

    def __iter__(self) -> Iterator[Batch]:
        # A generator reads the epoch when its first batch is asked for: Lightning sets it after iter().
        if self._step >= self._steps:
            self.set_epoch(self._epoch + 1)
        first, self._resume = self._resume, 0
        for step in range(first, self._steps):
            batch = self._batch(self._epoch * self._steps + step)
            self._step = step + 1
            yield batch
        self.set_epoch(self._epoch + 1)

    def _batch(self, global_step: int) -> Batch:
        if self._constant is not None:
            return self._constant
        begin = time.perf_counter()
        try:
            if self._next_step != global_step:
                self._build(global_step)
            outputs = self._run.run()
            self._next_step = global_step + 1
            batch = {name: self._tensor(out) for name, out in zip(self._spec.names, outputs, strict=True)}
        except Exception as error:
            self.close()
            if isinstance(error, RuntimeError) or type(error) is Exception:  # what DALI makes of a worker's error
                raise LoaderError(_reason(error)) from error
            raise
        finally:
            self.wait_seconds += time.perf_counter() - begin
        if self._repeats:
            self._constant = batch
            self.close()
        return batch

    def _tensor(self, output: Any) -> torch.Tensor:
        """A copy, since DALI reuses its buffers while the consumer may still hold the batch."""
        dense = output.as_tensor()
        gpu = self._spec.device_id
        device = torch.device("cpu") if gpu is None else torch.device("cuda", gpu)
        tensor = torch.empty(dense.shape(), dtype=TORCH_TYPES[dense.dtype], device=device)
        feed_ndarray(dense, tensor, cuda_stream=None if gpu is None else torch.cuda.current_stream(device))
        return tensor

    def _build(self, global_step: int) -> None:
        self.close()
        spec = self._spec
        if spec.num_workers:
            check_shared_memory(spec)
        self._run = _pipeline(
            self._source.at(global_step),
            spec,
            batch_size=spec.batch_size,
            num_threads=spec.num_threads,
            device_id=spec.device_id,
            prefetch_queue_depth=PREFETCH,
            py_num_workers=max(1, spec.num_workers),
            py_start_method="spawn",  # fork is refused once CUDA has started
        )
        with _uninterrupted_children():
            self._run.build()
        self._next_step = global_step

    def close(self) -> None:
        """Stop the pipeline and its workers; a later batch builds it anew."""
        if self._run is not None:
            self._run, self._next_step = None, -1
            gc.collect()  # a pipeline that is left to the interpreter's exit can block it


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
    return 2 * PREFETCH * spec.batch_size * spec.sample_bytes


def usable_workers(wanted: int) -> int:
    """At most one worker process for each core that this process may use."""
    return min(wanted, len(os.sched_getaffinity(0)))


def dali_threads() -> int:
    """Threads of DALI itself: what they compute beside the workers seldom fills more than four."""
    return usable_workers(4)


def _reason(error: Exception) -> str:
    """The one line that says what went wrong, out of a worker's traceback."""
    text = str(error)
    found = re.findall(r"^\s*(?:\w+\.)*(?:CaseError|LoaderError): (.+)$", text, flags=re.MULTILINE)
    return found[-1] if found else f"the data pipeline failed: {text}"
