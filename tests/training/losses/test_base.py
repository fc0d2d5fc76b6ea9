"""A volume's loss, slab by slab or whole."""

from collections.abc import Callable

import pytest
import torch

from cases.regions import Regions
from training.losses.base import Loss, VolumeLoss
from training.losses.dice_ce import CrossEntropy, Dice, DiceCrossEntropy, VoxelTermSettings

REGIONS = Regions(names=("whole", "core"), members=((1, 2), (2,)), values=(1, 2))
FOCAL = VoxelTermSettings(focal=True)
MAKERS: dict[str, Callable[..., Loss]] = {
    "dice": Dice,
    "ce": CrossEntropy,
    "default": DiceCrossEntropy,
    "focal": lambda regions: CrossEntropy(FOCAL, regions=regions),
    "dice and focal": lambda regions: DiceCrossEntropy(FOCAL, regions=regions),
}


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
    assert Dice()(logits, label).item() == pytest.approx(expected.item(), rel=1e-5)


def test_regions():
    rng, label = drawn()
    logits = torch.randn(2, 2, 6, 8, 10, generator=rng)
    expected = soft_dice(logits.sigmoid(), REGIONS.channels(label).float())
    loss = Dice(regions=REGIONS)(logits, label)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("regions", [None, REGIONS])
def test_a_volumes_loss_is_the_same_slab_by_slab(regions, name):
    rng, label = drawn()
    logits = torch.randn(1, 3 if regions is None else 2, 6, 8, 10, generator=rng)
    p = (logits.softmax(1) if regions is None else logits.sigmoid())[0]
    loss = MAKERS[name](regions=regions)
    volume = VolumeLoss(loss, label[0, 0])
    for planes in (slice(0, 4), slice(4, 6)):
        volume.add(p[:, planes], (planes, slice(None), slice(None)))
    assert volume.total().item() == pytest.approx(loss(logits, label[:1]).item(), rel=1e-4)
    assert volume.total().dtype == torch.float64


class WorstPlane(Loss):
    """1 - the likelihood of the plane that is worst: of no use in parts."""

    def of(self, voxels):
        likelihood = voxels.log_true.exp().flatten(2).mean(2)  # (N, D)
        return 1 - likelihood.min(dim=1).values.mean()


def test_a_loss_that_cannot_be_summed_sees_the_whole_volume():
    rng, label = drawn()
    logits = torch.randn(1, 3, 6, 8, 10, generator=rng)
    loss = WorstPlane()
    assert not loss.summable
    volume = VolumeLoss(loss, label[0, 0])
    buffer = torch.empty(3, 6, 8, 5)
    for columns in (slice(0, 5), slice(5, 10)):
        buffer.copy_(logits.softmax(1)[0, ..., columns])  # the memory of a slab is used again
        volume.add(buffer, (slice(None), slice(None), columns))
    assert volume.total().item() == pytest.approx(loss(logits, label[:1]).item(), rel=1e-6)
    assert loss(logits, label[:1]) > 1 - loss(logits, label[:1])  # worse than a guess


def test_a_loss_needs_a_formula():
    with pytest.raises(TypeError, match="abstract method"):
        Loss()
