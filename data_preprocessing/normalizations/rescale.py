"""Each scan to [0, 1]."""

from __future__ import annotations

import numpy as np

from cases.plan import Normalization
from data_preprocessing.normalizations.scheme import Scheme, scaled


class Rescale(Scheme):
    """The case's smallest value becomes 0, its largest 1."""

    def normalize(self, channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
        """See :class:`Scheme`. A channel whose voxels are all alike becomes 0."""
        low, high = float(channel_dhw.min()), float(channel_dhw.max())
        scale = high - low or 1.0
        return scaled(channel_dhw.astype(np.float32), low, scale), low, scale
