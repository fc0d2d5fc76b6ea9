"""Hounsfield units by the dataset's own numbers (nnU-Net, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import numpy as np

from cases.plan import Normalization
from data_preprocessing.normalizations.scheme import Scheme, scaled


class Ct(Scheme):
    """Clip to [lower, upper], subtract mean, divide by std: the same for every case."""

    statistics = True

    def normalize(self, channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
        """See :class:`Scheme`."""
        assert how.mean is not None and how.std is not None  # which is checked where the scheme is looked up
        values = np.clip(channel_dhw, how.lower, how.upper, dtype=np.float32)
        return scaled(values, how.mean, how.std), how.mean, how.std
