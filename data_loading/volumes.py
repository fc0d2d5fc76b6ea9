"""Whole volumes for validation and prediction: every case once, on one of the ranks.

They are read plainly, one ahead of the consumer, and to a GPU they go in the type they are stored in. DALI would add a
copy and a second buffer and has nothing to compute here; a sequential read is already as fast as the disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cases.case import has_label
from data_loading.sources.reader import CaseReader
from runtime.ahead import read_ahead
from runtime.transfer import upload


class VolumeLoader:
    """Iterates over {"image": (1, C, D, H, W) float32, "label": (1, 1, D, H, W) uint8 if any, "case": name}.

    Cases are dealt out by global rank, ``cases[rank::world_size]``, and none is repeated to make the counts
    equal. So ranks may differ by one case: let nothing communicate within a step, and sum numerators and
    counts over the ranks once, at the end (Lightning's and torchmetrics' reductions do). A rank without any
    case gets one empty item, for Lightning skips the evaluation of a rank that has nothing, and the others
    would wait for it.

    Attributes:
        wait_seconds: time spent waiting for volumes.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[str],
        channels: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.folder, self.channels = Path(folder), channels
        self.cases = tuple(cases)[rank::world_size]
        self.device = torch.device(device)
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return max(1, len(self.cases))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.cases:
            yield {}
        ahead = read_ahead(self._read, self.cases)
        begin = time.perf_counter()
        for _, volume in ahead:
            self.wait_seconds += time.perf_counter() - begin
            yield volume.result()
            del volume  # it would stay in memory beside the next two
            begin = time.perf_counter()

    def _read(self, case: str) -> dict[str, Any]:
        labelled = has_label(self.folder, case)
        opened = CaseReader(self.folder, self.channels, labelled=labelled).open(case)
        item: dict[str, Any] = {"image": self._tensor(opened.image_cdhw, np.float32), "case": case}
        if opened.label is not None:
            item["label"] = self._tensor(opened.label, np.uint8)
        return item

    def _tensor(self, array: np.ndarray, dtype: type) -> torch.Tensor:
        if self.device.type == "cuda":
            volume = upload(array, self.device)
            return (volume.float() if dtype is np.float32 else volume)[None]
        return torch.from_numpy(np.array(array, dtype=dtype, subok=False))[None].to(self.device)
