"""Test-time augmentation: the mean over mirrored copies of each window.

Probabilities are averaged, not logits: windows, flips and the way back to the scan's grid then all
average the same quantity, a saved probability map is what the labels were decided from, and one
over-confident flip cannot outvote the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cases.plan import Plan
from cases.settings import Settings, setting
from inference.sliding_window import Predictor


@dataclass(frozen=True, kw_only=True)
class TTASettings(Settings):
    """Test-time augmentation"""

    tta: bool = setting(False, "average over all flips of the mirrored axes", kept=False)
    tta_axes: tuple[int, ...] | None = setting(None, "axes to flip instead of those that training mirrored", kept=False)

    def flips(self, plan: Plan) -> tuple[int, ...]:
        """Spatial axes to flip, 0 the first of the patch; none without --tta, or where training mirrored none."""
        if not self.tta:
            return ()
        return plan.mirror_axes if self.tta_axes is None else self.tta_axes


def probabilities(predictor: Predictor, *, exclusive: bool) -> Predictor:
    """The predictor with its logits turned into float32 probabilities.

    Args:
        predictor: windows to logits (N, C, *patch).
        exclusive: softmax over classes; otherwise a sigmoid for each overlapping region.
    """

    def predict(windows: Tensor) -> Tensor:
        logits = predictor(windows)
        return logits.softmax(dim=1, dtype=torch.float32) if exclusive else logits.float().sigmoid()

    return predict


def flip_average(predictor: Predictor, flip_axes: Iterable[int]) -> Predictor:
    """The predictor's mean over all 2^n combinations of flips of the given spatial axes.

    Windows are gathered once and flipped as a batch, so flips cost the network's time alone. Flip
    only axes that training mirrored: elsewhere left and right are not the same class.

    Args:
        predictor: windows (N, C, *patch) to scores of the same sides.
        flip_axes: spatial axes, 0 the first of the patch; none of them: the predictor itself.
    """
    axes = sorted({axis + 2 for axis in flip_axes})
    combinations = [chosen for n in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, n)]
    if not combinations:
        return predictor

    def predict(windows: Tensor) -> Tensor:
        total = predictor(windows).float()
        for chosen in combinations:
            mirrored = predictor(windows.flip(chosen)).float().flip(chosen)  # our own memory, unlike the predictor's
            total = mirrored.add_(total)
        return total.div_(len(combinations) + 1)

    return predict
