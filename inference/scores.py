"""One case's scores against its true label map, and their mean and spread over cases.

Dice, IoU, the 95th percentile of the Hausdorff distance (HD95), and the surface Dice: the share of
both surfaces that lies within a tolerance of the other (doi:10.2196/26151). Where a class is in
neither map the case says nothing about it: its scores are nan and left out. Where it is in one map
alone, Dice, IoU and surface Dice are 0, and HD95 is the diagonal of the scan, the largest distance
that there could be.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from inference.metrics import overlap

METRICS = ("dice", "iou", "hd95_mm", "surface_dice")


def score_case(
    prediction_dhw: np.ndarray,
    label_dhw: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    n_class: int,
    tolerance_mm: float = 1.0,
) -> np.ndarray:
    """Scores of one case.

    Args:
        prediction_dhw, label_dhw: class values below ``n_class``, of one shape.
        spacing_mm: (D, H, W).
        n_class: classes with the background.
        tolerance_mm: of the surface Dice.

    Returns:
        float64, (classes without the background, 4), columns as in ``METRICS``.

    Raises:
        ValueError: for two shapes, or values that are no class.
    """
    counts = overlap(torch.from_numpy(prediction_dhw), torch.from_numpy(label_dhw), n_class)
    scores = np.full((n_class - 1, len(METRICS)), np.nan)
    scores[:, 0], scores[:, 1] = counts.dice, counts.iou
    diagonal = math.hypot(*(side * length for side, length in zip(label_dhw.shape, spacing_mm, strict=True)))
    for row, (predicted, true) in enumerate(zip(counts.predicted.tolist(), counts.true.tolist(), strict=True)):
        if predicted and true:
            scores[row, 2:] = _surfaces(prediction_dhw == row + 1, label_dhw == row + 1, spacing_mm, tolerance_mm)
        elif predicted or true:
            scores[row, 2:] = diagonal, 0.0
    return scores


def _surfaces(
    predicted: np.ndarray, true: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    """HD95 and surface Dice of two masks, neither empty; computed in the box around both."""
    either = predicted | true
    box = []
    for axis in range(3):
        inside = np.flatnonzero(either.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(inside[0], inside[-1] + 1))
    first, second = (torch.from_numpy(np.pad(mask[tuple(box)], 1))[None, None] for mask in (predicted, true))
    spacing = [float(length) for length in spacing_mm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of an argument that it passes itself
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=95, spacing=spacing)
        surface = compute_surface_dice(first, second, [tolerance_mm], include_background=True, spacing=spacing)
    return float(hd95), float(surface)


def summary(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and number of cases.

    Args:
        scores: (cases, ...), nan where a case says nothing.

    Returns:
        three arrays of one case's shape; mean and deviation are nan where no case says anything.
    """
    known = ~np.isnan(scores)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, scores, 0).sum(axis=0) / count
        variance = np.where(known, (scores - mean) ** 2, 0).sum(axis=0) / count
    return mean, np.sqrt(variance), count
