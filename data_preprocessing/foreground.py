"""Voxels of each class, drawn once, so that patches can be centred on them without reading the label."""

from __future__ import annotations

import numba
import numpy as np

FOREGROUND_VOXELS = 4096  # of each class in _fg.npy: more places than a patch has ever been centred on


def sample_foreground(label_1dhw: np.ndarray, counts: np.ndarray, *, seed: int) -> np.ndarray:
    """Up to ``FOREGROUND_VOXELS`` voxels of each class above 0, spread evenly over its voxels.

    Args:
        label_1dhw: uint8, (1, D, H, W).
        counts: voxels of each class.
        seed: of the place within each of the even stretches.

    Returns:
        int32, rows (class, d, h, w), sorted by place.
    """
    rng = np.random.default_rng(seed)
    wanted = np.minimum(counts, FOREGROUND_VOXELS)
    wanted[0] = 0
    ranks = np.full((len(counts), FOREGROUND_VOXELS + 1), -1, np.int64)
    for value in np.flatnonzero(wanted):
        edges = np.arange(wanted[value] + 1) * counts[value] // wanted[value]
        ranks[value, : wanted[value]] = rng.integers(edges[:-1], edges[1:])
    rows = np.empty((int(wanted.sum()), 4), np.int32)
    _pick(label_1dhw[0], ranks, rows)
    return rows


@numba.njit(cache=True, nogil=True)
def _pick(label_dhw: np.ndarray, ranks: np.ndarray, rows: np.ndarray) -> None:
    """Rows of the voxels that are the ranks[c, 0]-th, ranks[c, 1]-th, ... of their class c."""
    seen = np.zeros(len(ranks), np.int64)
    taken = np.zeros(len(ranks), np.int64)
    filled = 0
    for d in range(label_dhw.shape[0]):
        for h in range(label_dhw.shape[1]):
            for w in range(label_dhw.shape[2]):
                value = label_dhw[d, h, w]
                if value == 0:
                    continue
                if seen[value] == ranks[value, taken[value]]:
                    rows[filled, 0], rows[filled, 1], rows[filled, 2], rows[filled, 3] = value, d, h, w
                    filled += 1
                    taken[value] += 1
                seen[value] += 1
