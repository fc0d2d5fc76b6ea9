"""What the modes are put together from, where no whole run shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cli.building import flipped_axes, training_cases
from cli.evaluate import validation_cases
from cli.modes import parse_main
from data_loading.augmentation.pipeline import Augmentation
from inference.tta import TTASettings
from runtime.devices import global_rank
from tests.conftest import make_plan


def test_no_augmentation_leaves_mirroring_to_the_coin() -> None:
    (mirror,) = Augmentation.of(parse_main(["--augment", "none"])).effects
    assert type(mirror).__name__ == "Mirror"
    assert mirror.given.mirror == 0.5


def test_test_time_augmentation_that_flips_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(mirror_axes=())
    assert flipped_axes(TTASettings(tta=True, tta_axes=(1,)), plan) == (1,)
    assert flipped_axes(TTASettings(), plan) == ()
    assert capsys.readouterr().err == ""
    assert flipped_axes(TTASettings(tta=True), plan) == ()
    assert "--tta changes nothing: training mirrored no axis" in capsys.readouterr().err


def test_the_first_process_of_a_further_node_is_not_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert global_rank() == 0
    monkeypatch.setenv("NODE_RANK", "1")
    assert global_rank() > 0
    monkeypatch.setattr(rank_zero_only, "rank", 9)
    assert global_rank() == 9


def test_training_and_evaluation_take_the_same_given_folds(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d", "plan"):
        (tmp_path / f"{name}.json").touch()
    splits = [tmp_path / "train.txt", tmp_path / "val.txt"]
    splits[0].write_text("d\nb\n")
    splits[1].write_text("c\n")
    flags = ["--data", str(tmp_path), "--splits", *map(str, splits)]
    given = parse_main(["--exec_mode", "train", *flags])
    assert training_cases(given) == (["b", "d"], ["c"])
    assert given.as_json()["splits"] == tuple(map(str, splits))
    evaluated = parse_main(["--exec_mode", "evaluate", "--ckpt_path", "C.ckpt", *flags])
    assert validation_cases(evaluated, tmp_path) == ["c"]
