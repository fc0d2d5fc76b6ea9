"""One term of the loss alone: soft Dice smoothed by 1 (Models Genesis), cross entropy (MedicalNet)."""

import pytest
import torch

from cases.regions import Regions
from training.losses import SegmentationLoss
from training.validation import VolumeLoss

REGIONS = Regions(names=("whole", "core"), members=((1, 2), (2,)), values=(1, 2))


def soft_dice(p, target):
    """(N, C, ...) probabilities and 0/1 targets, sums over the whole batch."""
    p, target = (x.transpose(0, 1).flatten(1) for x in (p, target))
    return (1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)).mean()


def drawn():
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 1, 6, 8, 10), generator=rng, dtype=torch.uint8)
    return rng, label


def test_classes_without_the_background():
    rng, label = drawn()
    logits = torch.randn(2, 3, 6, 8, 10, generator=rng)
    target = torch.cat([label == 1, label == 2], dim=1).float()
    expected = soft_dice(logits.softmax(1)[:, 1:], target)
    assert SegmentationLoss(terms="dice")((logits,), label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_regions():
    rng, label = drawn()
    logits = torch.randn(2, 2, 6, 8, 10, generator=rng)
    expected = soft_dice(logits.sigmoid(), REGIONS.channels(label).float())
    loss = SegmentationLoss(terms="dice", regions=REGIONS)((logits,), label)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("terms", ["dice", "ce"])
@pytest.mark.parametrize("regions", [None, REGIONS])
def test_a_volumes_loss_is_the_same_slab_by_slab(regions, terms):
    rng, label = drawn()
    logits = torch.randn(1, 3 if regions is None else 2, 6, 8, 10, generator=rng)
    p = (logits.softmax(1) if regions is None else logits.sigmoid())[0]
    volume = VolumeLoss(terms=terms, regions=regions)
    for planes in (slice(0, 4), slice(4, 6)):
        volume.add(p[:, planes], label[0, 0, planes])
    expected = SegmentationLoss(terms=terms, regions=regions)((logits,), label[:1])
    assert volume.total().item() == pytest.approx(expected.item(), rel=1e-4)
