"""Losses by name, and one from a user's file."""

from pathlib import Path

import pytest
import torch

from cases.regions import Regions
from cases.registry import RegistryError
from cases.settings import Given, Settings
from training.losses import LOSSES, LossSettings, build_loss
from training.losses.base import SummedLoss, VolumeLoss
from training.losses.dice_ce import CrossEntropy, Dice, DiceCrossEntropy, VoxelTermSettings

TVERSKY = """
from dataclasses import dataclass

from cases.settings import Settings, probability, setting
from training.losses.base import SummedLoss


@dataclass(frozen=True, kw_only=True)
class TverskySettings(Settings):
    "Tversky loss (doi:10.1007/978-3-319-67389-9_44)"

    tversky_alpha: float = setting(0.3, "weight of false positives", check=probability)


class Tversky(SummedLoss):
    settings = TverskySettings

    def __init__(self, settings, *, regions=None):
        super().__init__(regions=regions)
        self.alpha = settings.tversky_alpha

    def sums(self, voxels):
        return voxels.overlap()

    def finish(self, sums):
        both = sums["both"]
        wrong = self.alpha * (sums["predicted"] - both) + (1 - self.alpha) * (sums["true"] - both)
        return 1 - (both / (both + wrong + 1e-5)).mean()


def no_loss(logits, label):
    return logits.sum()
"""
REGIONS = Regions(names=("whole", "core"), members=((1, 2), (2,)), values=(1, 2))


def given(*groups: Settings) -> Given:
    return Given(groups)


@pytest.mark.parametrize(("name", "kind"), [("default", DiceCrossEntropy), ("dice", Dice), ("ce", CrossEntropy)])
def test_losses_by_name(name: str, kind: type) -> None:
    loss = build_loss(given(LossSettings(loss=name), VoxelTermSettings(focal=True)), REGIONS)
    assert type(loss) is kind
    assert loss.regions is REGIONS
    assert getattr(loss, "focal", True) is True


def test_dice_reads_no_setting_and_the_others_the_voxel_term() -> None:
    assert LOSSES.settings_of("dice") == ()
    assert LOSSES.settings_of("ce") == LOSSES.settings_of("default") == (VoxelTermSettings,)


def test_an_own_loss_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tversky_of_a_user.py").write_text(TVERSKY)
    name = f"{tmp_path / 'tversky_of_a_user.py'}:Tversky"
    (group,) = LOSSES.settings_of(name)
    loss = build_loss(given(LossSettings(loss=name), group(tversky_alpha=0.2)))
    assert isinstance(loss, SummedLoss)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 6, 8, 10, generator=generator).requires_grad_()
    label = torch.randint(0, 3, (1, 1, 6, 8, 10), generator=generator, dtype=torch.uint8)
    p, one_hot = logits.softmax(1)[0, 1:], torch.stack([label[0, 0] == 1, label[0, 0] == 2]).float()
    both, false, missed = ((x * y).sum((1, 2, 3)) for x, y in ((p, one_hot), (p, 1 - one_hot), (1 - p, one_hot)))
    expected = 1 - (both / (both + 0.2 * false + 0.8 * missed)).mean()
    found = loss(logits, label)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    volume = VolumeLoss(loss, label[0, 0])
    for planes in (slice(0, 4), slice(4, 6)):
        volume.add(logits.detach().softmax(1)[0][:, planes], (planes,))
    assert volume.total().item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_loss", "is no loss: it has no of"),
        ("TverskySettings", "is no loss"),
        ("Tverski", "defines no Tverski; did you mean Tversky"),
    ],
)
def test_a_wrong_object_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"losses_of_{name}.py").write_text(TVERSKY)
    own = f"{tmp_path / f'losses_of_{name}.py'}:{name}"
    with pytest.raises(RegistryError, match=message):
        build_loss(given(LossSettings(loss=own)))


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(RegistryError, match=r"loss 'dise' is none of default, dice, ce, .* did you mean dice"):
        build_loss(given(LossSettings(loss="dise")))
