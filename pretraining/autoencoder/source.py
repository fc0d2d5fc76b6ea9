"""What the autoencoder sees: whole scans. NumPy and Numba alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import CaseInfo
from data_preprocessing.resample import resample_image
from pretraining.genesis.cubes import to_unit
from pretraining.source import FolderScans


class ScanPatches(FolderScans):
    """Whole scans, without their padding, resized to the patch: what the autoencoder sees."""

    visits = 1

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        """A scan; nothing of it is random."""
        return cut_scan(self._reader.open(self.names[index]).image_cdhw, self._infos[index], patch_dhw)


def cut_scan(image_cdhw: np.ndarray, info: CaseInfo, shape_dhw: Sequence[int]) -> np.ndarray:
    """A whole scan without its padding: (C, *shape_dhw) float32 in [0, 1], linearly resized."""
    d, h, w = (slice(a, a + s) for a, s in zip(info.pad_before, info.shape_resampled, strict=True))
    return resample_image(to_unit(image_cdhw[:, d, h, w], info.intensity), shape_dhw, order=1)
