"""What the commands are put together from, where no whole run shows it."""

from __future__ import annotations

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cli.assembly import augmentation_of, flipped_axes, global_rank, optimization_of
from data_loading.augmentation.spatial import Mirror
from settings import MainSettings
from tests.conftest import make_plan


def test_no_augmentation_leaves_mirroring_to_the_coin() -> None:
    (effect,) = augmentation_of(MainSettings(augment="none")).effects
    assert isinstance(effect, Mirror)
    assert effect.given.mirror == 0.5


def test_test_time_augmentation_that_flips_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(mirror_axes=())
    assert flipped_axes(MainSettings(tta=True, tta_axes=(1,)), plan) == (1,)
    assert flipped_axes(MainSettings(), plan) == ()
    assert capsys.readouterr().err == ""
    assert flipped_axes(MainSettings(tta=True), plan) == ()
    assert "--tta changes nothing: training mirrored no axis" in capsys.readouterr().err


def test_gradients_are_clipped_before_a_step_that_is_not_fused() -> None:
    assert optimization_of(MainSettings()).fused
    assert not optimization_of(MainSettings(gradient_clip_val=12.0)).fused


def test_the_first_process_of_a_further_node_is_not_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert global_rank() == 0
    monkeypatch.setenv("NODE_RANK", "1")
    assert global_rank() > 0
    monkeypatch.setattr(rank_zero_only, "rank", 9)
    assert global_rank() == 9
