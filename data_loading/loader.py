"""The one iterator over the pipeline of patches.

The pipeline never ends an epoch (``dali.py``). The iterator owns the epoch, so its length is fixed and true.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterator
from typing import Any

import torch
from nvidia.dali import types
from nvidia.dali.plugin.pytorch import feed_ndarray

from data_loading.dali import PipelineSpec, build_pipeline
from data_loading.errors import LoaderError
from data_loading.sources.source import Source

Batch = dict[str, torch.Tensor]
TORCH_TYPES = {
    types.DALIDataType.FLOAT: torch.float32,
    types.DALIDataType.UINT8: torch.uint8,
    types.DALIDataType.INT32: torch.int32,
    types.DALIDataType.INT64: torch.int64,
}


class PatchLoader:
    """Iterates over batches: dicts of torch tensors on the pipeline's device, each the consumer's to keep.

    ``len(loader)`` batches an epoch, whatever happened before. ``iter(loader)`` begins the present epoch at
    its start, after :meth:`load_state_dict` at the saved step; running to the end moves on to the next epoch,
    and so does :meth:`set_epoch`, which Lightning calls through the attribute ``sampler`` before an epoch.
    The pipeline is rebuilt only where the next batch is not the one that it prefetches anyway: after an
    interrupted epoch and on resuming. Use as a context manager, or call :meth:`close`.

    Attributes:
        wait_seconds: time spent waiting for batches since the loader was made; the caller may reset it.
        local_ranks: processes of this machine that load alike, and share its /dev/shm.

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
        self.local_ranks = 1
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
        self._run = build_pipeline(self._source, self._spec, global_step, local_ranks=self.local_ranks)
        self._next_step = global_step

    def close(self) -> None:
        """Stop the pipeline and its workers; a later batch builds it anew."""
        if self._run is not None:
            self._run, self._next_step = None, -1
            gc.collect()  # a pipeline that is left to the interpreter's exit can block it


def _reason(error: Exception) -> str:
    """The one line that says what went wrong, out of a worker's traceback."""
    text = str(error)
    found = re.findall(r"^\s*(?:\w+\.)*(?:CaseError|LoaderError): (.+)$", text, flags=re.MULTILINE)
    return found[-1] if found else f"the data pipeline failed: {text}"
