"""What the commands are put together from, where no whole run shows it."""

from __future__ import annotations

import pytest
from cli.assembly import flipped_axes, global_rank, loader_of
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from data_loading.sources.sampling import EFFECTS
from settings import MainSettings
from tests.conftest import make_plan


def test_no_augmentation_leaves_mirroring_to_the_coin() -> None:
    augmentation = loader_of(MainSettings(augment="none")).augmentation
    assert augmentation is not None
    shares = {name: getattr(augmentation, name) for name in EFFECTS}
    assert shares.pop("mirror") == 0.5
    assert set(shares.values()) == {0.0}


def test_test_time_augmentation_that_flips_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(mirror_axes=())
    assert flipped_axes(MainSettings(tta=True, tta_axes=(1,)), plan) == (1,)
    assert flipped_axes(MainSettings(), plan) == ()
    assert capsys.readouterr().err == ""
    assert flipped_axes(MainSettings(tta=True), plan) == ()
    assert "--tta changes nothing: training mirrored no axis" in capsys.readouterr().err


def test_the_first_process_of_a_further_node_is_not_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert global_rank() == 0
    monkeypatch.setenv("NODE_RANK", "1")
    assert global_rank() > 0
    monkeypatch.setattr(rank_zero_only, "rank", 9)
    assert global_rank() == 9
