"""Heads of several resolutions, each against its own label."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from training.losses.dice_ce import CrossEntropy, DiceCrossEntropy
from training.losses.supervision import DeepSupervision


def problem(classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 4, 6, 8, generator=generator)
    label = torch.randint(0, classes, (2, 1, 4, 6, 8), generator=generator, dtype=torch.uint8)
    return logits, label


def test_cross_entropy_alone_at_the_resolution_of_the_logits():
    _, label = problem(3)
    logits = torch.randn(2, 3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    resized = torch.from_numpy(
        np.stack([ndimage.zoom(one[0], (2 / 4, 3 / 6, 3 / 8), order=0) for one in label.numpy()])
    )
    expected = F.cross_entropy(logits, resized.long())
    assert DeepSupervision(CrossEntropy())((logits,), label).item() == pytest.approx(expected.item(), rel=1e-6)


def test_heads_are_averaged_with_halving_weights():
    logits, label = problem(3)
    coarse = torch.randn(2, 3, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    loss = DeepSupervision(DiceCrossEntropy())
    both = loss((logits, coarse), label)
    half = F.interpolate(label, size=(2, 3, 4), mode="nearest-exact")
    expected = (loss((logits,), label) + 0.5 * loss((coarse,), half)) / 1.5
    assert both.item() == pytest.approx(expected.item(), rel=1e-6)
