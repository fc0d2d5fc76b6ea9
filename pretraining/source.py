"""Patches to restore, as DALI's workers read them: NumPy and Numba alone.

The order of scans, the places and the corruptions are a pure function of (seed, epoch, step, rank), as for every other
patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cases.case import read_info
from data_loading.errors import LoaderError
from data_loading.sources.reader import CaseReader
from data_loading.sources.sampling import PatchSampler
from data_loading.sources.source import SampleInfo
from pretraining.corruption import Corruption, DeviceCorruption


class Patches(Protocol):
    """Where patches in [0, 1] come from. Pickles small: the workers get a copy.

    Attributes:
        names: of the scans or files behind them; part of a run's identity.
        visits: patches that an epoch takes from each entry.
        classes: int64, the pseudo-class of each entry, or None.
    """

    names: tuple[str, ...]
    visits: int
    classes: np.ndarray | None

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        """(C, D, H, W) float32 of one entry, at a place that ``rng`` decides."""
        ...


class FolderScans:
    """The scans of a preprocessed folder, as all that learns from them without labels opens them.

    Raises:
        LoaderError: without cases.
        CaseError: for a case that cannot be read.
    """

    classes: np.ndarray | None = None

    def __init__(self, folder: Path, cases: Sequence[str], channels: int) -> None:
        if not cases:
            raise LoaderError(f"{folder}: no scans to learn from; run preprocess.py, or choose another fold")
        self.names = tuple(sorted(cases))
        self._reader = CaseReader(folder, channels, labelled=False)
        self._infos = [read_info(folder, case) for case in self.names]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True)
class RestorationSource:
    """The callable of DALI's external source: SampleInfo -> arrays of one patch.

    Where the worker corrupts, (image, target); else the patch and what the corruption drew for it. Where the patches
    have classes, the patch's class comes last, an int64 without axes.

    Attributes:
        corrupts: corrupt here, in the worker; False leaves it to the device.
        repeats: every epoch is the first again, as validation needs.
        axes: 3, or 2 where the depth axis is dropped.
        first_step: global step of the pipeline's first batch.
    """

    patches: Patches
    sampler: PatchSampler
    corruption: Corruption
    corrupts: bool
    repeats: bool = False
    axes: int = 3
    first_step: int = 0

    def at(self, global_step: int) -> RestorationSource:
        """The same source for a pipeline that begins at ``global_step``."""
        return replace(self, first_step=global_step)

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        step, index = self._place(self.first_step + info.iteration), info.idx_in_batch
        rng = self.sampler.patch_generator(step, index)
        seed, entry = _draw_seed(rng), self.sampler.case_index(step, index)
        patch = self.patches.read(entry, rng, self.sampler.patch_dhw)
        patch = patch[:, 0] if self.axes == 2 else patch
        classes = self.patches.classes
        return (*self._arrays(patch, seed), *([] if classes is None else [classes[entry]]))

    def _arrays(self, patch: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        if self.corrupts:
            return self.corruption.apply_cpu(patch, seed)
        assert isinstance(self.corruption, DeviceCorruption)  # no other is left to the device
        return (patch, *self.corruption.draw(patch.shape, seed))

    def seeds(self, global_step: int) -> list[int]:
        """What the corruption of each patch of a batch is drawn from."""
        step = self._place(global_step)
        return [_draw_seed(self.sampler.patch_generator(step, i)) for i in range(self.sampler.batch_size)]

    def _place(self, global_step: int) -> int:
        return global_step % self.sampler.steps_per_epoch if self.repeats else global_step


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 63))
