"""Scans without a unit by their own voxels (nnU-Net, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import numpy as np

from cases.plan import Normalization
from data_preprocessing.normalizations.scheme import Scheme, scaled


class Zscore(Scheme):
    """Subtract the mean of the case's voxels that are not zero, divide by their standard deviation; zeros stay 0."""

    keeps_zero = True

    def normalize(self, channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
        """See :class:`Scheme`. A channel whose non-zero voxels are all alike keeps scale 1."""
        inside = channel_dhw != 0
        values = channel_dhw[inside]
        mean = float(values.mean(dtype=np.float64)) if len(values) else 0.0
        std = float(values.std(dtype=np.float64)) if len(values) else 0.0
        scale = std if std > 0 else 1.0
        out = scaled(channel_dhw.astype(np.float32), mean, scale)
        out *= inside
        return out, mean, scale
