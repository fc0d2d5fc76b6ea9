"""Intensities as they are, for scans that come normalised."""

from __future__ import annotations

import numpy as np

from cases.plan import Normalization
from data_preprocessing.normalizations.scheme import Scheme


class Unchanged(Scheme):
    """The scan's own values."""

    def normalize(self, channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
        """See :class:`Scheme`."""
        return channel_dhw.astype(np.float32), 0.0, 1.0
