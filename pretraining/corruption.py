"""What a corruption is: how a patch becomes the picture that a network restores. NumPy only: workers unpickle it.

On the CPU the reading worker corrupts the patch. For a GPU a corruption may have a device form: then the worker only
draws its parameters, which travel with the patch, and the whole batch is corrupted where it is needed. One without a
device form is left to the workers there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Corruption(Protocol):
    """Pickles small: the workers get a copy."""

    def apply_cpu(self, patch: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(image, target) of a patch (C, *axes) float32 in [0, 1]: a pure function of patch and seed."""
        ...


@runtime_checkable
class DeviceCorruption(Corruption, Protocol):
    """A corruption that can also be computed for a batch on its device, with the same result.

    Attributes:
        drawn: (NumPy type, number of axes) of each array that ``draw`` returns: float32, int32 or int64.
    """

    drawn: tuple[tuple[str, int], ...]

    def draw(self, shape: Sequence[int], seed: int) -> tuple[np.ndarray, ...]:
        """The parameters of a patch of shape (C, *axes), as arrays whose shapes are the same for every seed."""
        ...

    def apply_device(self, batch: Tensor, drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(images, targets) of a batch (N, C, *axes); ``drawn``: N times what ``draw`` returned, on its device.

        The consumer runs ahead of the device, so nothing here may wait for it.
        """
        ...

    def why_not_device(self) -> str:
        """Why this machine's GPU cannot compute it, in words; empty where it can."""
        ...


class Unchanged:
    """Nothing is corrupted: the target is the image."""

    drawn: tuple[tuple[str, int], ...] = ()

    def apply_cpu(self, patch: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return patch, patch

    def draw(self, shape: Sequence[int], seed: int) -> tuple[np.ndarray, ...]:
        return ()

    def apply_device(self, batch: Tensor, drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return batch, batch

    def why_not_device(self) -> str:
        return ""
