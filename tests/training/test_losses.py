import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from cases.regions import brats_regions
from training.losses import SegmentationLoss


def soft_dice(probability, target):
    """1 - Dice over batch and space, mean over channels, with the library's smoothing of 1e-5."""
    axes = (0, 2, 3, 4)
    overlap = (probability * target).sum(axes)
    return (1 - (2 * overlap + 1e-5) / (probability.sum(axes) + target.sum(axes) + 1e-5)).mean()


def problem(classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 4, 6, 8, generator=generator)
    label = torch.randint(0, classes, (2, 1, 4, 6, 8), generator=generator, dtype=torch.uint8)
    return logits, label


def test_dice_and_cross_entropy_match_the_definition():
    logits, label = problem(3)
    onehot = F.one_hot(label[:, 0].long(), 3).movedim(-1, 1).float()
    expected = soft_dice(logits.softmax(1)[:, 1:], onehot[:, 1:]) - (logits.log_softmax(1) * onehot).sum(1).mean()
    assert SegmentationLoss()((logits,), label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_loss_takes_the_place_of_cross_entropy():
    logits, label = problem(3)
    onehot = F.one_hot(label[:, 0].long(), 3).movedim(-1, 1).float()
    p = logits.softmax(1)
    focal = -(onehot * (1 - p) ** 2 * p.log()).mean()
    expected = soft_dice(p[:, 1:], onehot[:, 1:]) + focal
    assert SegmentationLoss(focal=True)((logits,), label).item() == pytest.approx(expected.item(), rel=1e-4)


def test_regions_are_sigmoid_channels():
    regions = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    logits, label = problem(4)
    logits = logits[:, :3]
    target = torch.cat([label > 0, label > 1, label == 3], 1).float()
    expected = soft_dice(logits.sigmoid(), target) + F.binary_cross_entropy_with_logits(logits, target)
    assert SegmentationLoss(regions=regions)((logits,), label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_alone_at_the_resolution_of_the_logits():
    _, label = problem(3)
    logits = torch.randn(2, 3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    resized = torch.from_numpy(
        np.stack([ndimage.zoom(one[0], (2 / 4, 3 / 6, 3 / 8), order=0) for one in label.numpy()])
    )
    expected = F.cross_entropy(logits, resized.long())
    assert SegmentationLoss(terms="ce")((logits,), label).item() == pytest.approx(expected.item(), rel=1e-6)


def test_heads_are_averaged_with_halving_weights():
    logits, label = problem(3)
    coarse = torch.randn(2, 3, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    loss = SegmentationLoss()
    both = loss((logits, coarse), label)
    half = F.interpolate(label, size=(2, 3, 4), mode="nearest-exact")
    expected = (loss((logits,), label) + 0.5 * loss((coarse,), half)) / 1.5
    assert both.item() == pytest.approx(expected.item(), rel=1e-6)


def test_half_precision_logits_give_a_single_precision_loss():
    logits, label = problem(3)
    loss = SegmentationLoss()((logits.bfloat16(),), label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(SegmentationLoss()((logits,), label).item(), rel=1e-2)


def test_brats_regions_follow_the_names():
    task01 = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    assert task01.members == ((1, 2, 3), (2, 3), (3,))
    brats21 = brats_regions(("background", "necrotic core", "edema", "enhancing"))
    assert brats21.members == ((1, 2, 3), (1, 3), (3,))
    label = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 4)
    for regions in (task01, brats21):
        assert torch.equal(regions.label(regions.channels(label)[0]), label[0, 0])
    with pytest.raises(ValueError, match="edema"):
        brats_regions(("background", "liver"))
