"""The Genesis transformations as the loader takes them: in its workers, or drawn there and done on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pretraining.genesis.packing import pack
from pretraining.genesis.sampling import GenesisSettings, sample
from pretraining.genesis.transforms import transform_pair
from runtime import triton

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GenesisCorruption:
    """The transformations as :class:`pretraining.corruption.DeviceCorruption`."""

    settings: GenesisSettings
    drawn: ClassVar[tuple[tuple[str, int], ...]] = (("int32", 1), ("int32", 2), ("float32", 2))

    def apply_cpu(self, patch: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return transform_pair(patch, seed, self.settings)

    def draw(self, shape: Sequence[int], seed: int) -> tuple[np.ndarray, ...]:
        return pack(sample(np.random.default_rng(seed), shape, self.settings), self.settings)

    def apply_device(self, batch: Tensor, drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        from pretraining.genesis.device import corrupt_batch  # torch, which workers do without

        return corrupt_batch(batch, drawn, self.settings)

    def why_not_device(self) -> str:
        return "" if triton.available() else "Triton cannot build its kernels here (it needs a C compiler and Python.h)"
