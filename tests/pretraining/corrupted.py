"""Batches of Genesis pairs on the CPU, and the numbers of the later Genesis-for-nnU-Net code."""

from collections.abc import Sequence

import numpy as np

from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.transforms import transform_pair

Z_SCORED = {"percentiles": (0.1, 99.9), "flip_each_axis": True, "per_channel": True}


def transform_batch(x: np.ndarray, seeds: Sequence[int], settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, targets) of patches (N, C, ...), one seed each."""
    pairs = [transform_pair(patch, seed, settings) for patch, seed in zip(x, seeds, strict=True)]
    corrupted, targets = zip(*pairs, strict=True)
    return np.stack(corrupted), np.stack(targets)
