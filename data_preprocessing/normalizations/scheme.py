"""What a normalisation is; one file a scheme, see zscore.py for an example."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cases.plan import Normalization


class Scheme:
    """Base of the schemes.

    Attributes:
        statistics: whether it needs the dataset's numbers of the plan: lower and upper (0.5 and 99.5 percentiles),
            mean and std of its voxels, to whole units.
        keeps_zero: whether voxels that are 0 stay 0, being none of the scan; they are left out of its range then.
    """

    statistics: ClassVar[bool] = False
    keeps_zero: ClassVar[bool] = False

    def normalize(self, channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
        """One channel by the plan's rule.

        Returns:
            float32 values (raw - shift) / scale, a new array; shift; scale.
        """
        raise NotImplementedError


def scaled(values: np.ndarray, shift: float, scale: float) -> np.ndarray:
    """(values - shift) / scale of float32 values, in place."""
    values -= np.float32(shift)
    values *= np.float32(1 / scale)
    return values
