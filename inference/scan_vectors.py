"""One vector for each scan: the mean, over windows that cover it, of what a network says of a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from inference.feeding import Volume, feed, settled
from inference.predict import BAD_SCAN, Load, fault_of
from inference.sliding_window import SlidingWindow
from inference.window_grid import WindowGrid
from runtime.ahead import read_ahead
from runtime.transfer import with_index

Answer = Callable[[Tensor], Tensor]  # windows (N, C, *patch) to vectors (N, K)


@dataclass(frozen=True, kw_only=True)
class ScanVector:
    """How one scan ended: its vector, (K,) float64 on the CPU, or the fault in words."""

    case: str
    vector: Tensor | None = None
    fault: str | None = None


@torch.no_grad()
def mean_over_windows(
    image_cdhw: Volume, answer: Answer, windows: SlidingWindow, device: torch.device | str = "cpu"
) -> Tensor:
    """(K,) float64 on the device. Sides shorter than the window are padded with zeros on both sides.

    Args:
        image_cdhw: a scan; a memory map will do.
        answer: what is averaged.
        windows: how the scan is cut; each counts alike.
        device: of the network.
    """
    device = with_index(device)
    gpu = device.type == "cuda"
    grid = WindowGrid.over(image_cdhw.shape[1:], windows.window_dhw, windows.overlap)
    batches = [list(chain(*batch)) for batch in grid.batches(windows.batch_size, full=gpu)]
    sums = []
    for corners, fed in zip(batches, feed(settled(image_cdhw, device), grid, batches, device, full=gpu), strict=True):
        vectors = answer(fed[:, :, 0] if len(windows.patch_size) == 2 else fed)
        sums.append(vectors[: len(corners)].double().sum(0))
    return torch.stack(sums).sum(0) / sum(map(len, batches))


def scan_vectors(
    loads: Sequence[tuple[str, Load]],
    answer: Answer,
    windows: SlidingWindow,
    *,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[ScanVector]:
    """The vector of each scan, in order, the next being read meanwhile; a bad scan costs no other one.

    Args:
        loads: names of scans, and what reads them; see :func:`inference.predict.raw_loads`.
        answer, windows, device: see :func:`mean_over_windows`.
        autocast: the precision of the network.
    """
    for (case, _), reading in read_ahead(lambda entry: entry[1](), loads):
        try:
            with autocast():
                vector = mean_over_windows(reading.result()[0], answer, windows, device).cpu()
        except BAD_SCAN as error:
            yield ScanVector(case=case, fault=fault_of(case, error))
        else:
            yield ScanVector(case=case, vector=vector)
