"""Dice and cross entropy, against their definitions and MONAI."""

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from torch.nn import functional as F

from cases.regions import Regions, brats_regions
from training.losses.dice_ce import CrossEntropy, Dice, DiceCrossEntropy, VoxelTermSettings


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
    assert DiceCrossEntropy()(logits, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_loss_takes_the_place_of_cross_entropy():
    logits, label = problem(3)
    onehot = F.one_hot(label[:, 0].long(), 3).movedim(-1, 1).float()
    p = logits.softmax(1)
    focal = -(onehot * (1 - p) ** 2 * p.log()).mean()
    expected = soft_dice(p[:, 1:], onehot[:, 1:]) + focal
    assert DiceCrossEntropy(VoxelTermSettings(focal=True))(logits, label).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


def test_regions_are_sigmoid_channels():
    regions = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    logits, label = problem(4)
    logits = logits[:, :3]
    target = torch.cat([label > 0, label > 1, label == 3], 1).float()
    expected = soft_dice(logits.sigmoid(), target) + F.binary_cross_entropy_with_logits(logits, target)
    assert DiceCrossEntropy(regions=regions)(logits, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_half_precision_logits_give_a_single_precision_loss():
    logits, label = problem(3)
    loss = DiceCrossEntropy()(logits.bfloat16(), label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(DiceCrossEntropy()(logits, label).item(), rel=1e-2)


REGIONS = Regions(names=("whole", "core", "inner"), members=((1, 2), (2,), (2,)), values=(1, 2, 2))


def monais(terms, logits, label, regions, focal):
    """The loss as it is put together of MONAI's and PyTorch's own."""
    smooth = 1.0 if terms == "dice" else 1e-5
    common = {"batch": True, "smooth_nr": smooth, "smooth_dr": smooth}
    if regions is None:
        target = label
        dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, **common)
        voxel = F.cross_entropy(logits, label[:, 0].long())
    else:
        target = regions.channels(label).float()
        dice = DiceLoss(sigmoid=True, **common)
        voxel = F.binary_cross_entropy_with_logits(logits, target)
    if focal:
        voxel = FocalLoss(gamma=2.0, to_onehot_y=regions is None, use_softmax=regions is None)(logits, target)
    return {"dice": dice(logits, target), "ce": voxel, "default": dice(logits, target) + voxel}[terms]


@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("regions", [None, REGIONS])
@pytest.mark.parametrize("terms", ["default", "dice", "ce"])
def test_values_and_gradients_are_monais(terms, regions, focal):
    settings = VoxelTermSettings(focal=focal)
    makers = {
        "default": lambda: DiceCrossEntropy(settings, regions=regions),
        "dice": lambda: Dice(regions=regions),
        "ce": lambda: CrossEntropy(settings, regions=regions),
    }
    logits, label = problem(3)
    found = []
    for loss in (makers[terms](), lambda logits, label: monais(terms, logits, label, regions, focal)):
        x = (3 * logits).requires_grad_()
        value = loss(x, label)
        value.backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-7, rtol=1e-5)


def test_flat_images_too():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 6, 8, generator=generator)
    label = torch.randint(0, 3, (4, 1, 6, 8), generator=generator, dtype=torch.uint8)
    expected = monais("default", logits, label, None, False)
    assert DiceCrossEntropy()(logits, label).item() == pytest.approx(expected.item(), abs=1e-6)
