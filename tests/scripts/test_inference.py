"""Prediction's flags, as main.py gets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts import inference

Runs = list[list[str]]
Read = Callable[[list[str]], Any]


def test_prediction(runs: Runs, accepted: Read) -> None:
    command = ["--data", "my data/04_3d/val", "--task", "04", "--fold", "1", "--dim", "3", "--ckpt_path", "a b.ckpt"]
    assert inference.main([*command, "--batch_size", "2", "--amp", "--tta", "--save_preds", "--", "--gpus", "0"]) == 3
    settings = accepted(runs[0])
    assert settings.exec_mode == "predict"
    assert (settings.data, settings.ckpt_path) == (Path("my data/04_3d/val"), Path("a b.ckpt"))
    assert (settings.val_batch_size, settings.fold, settings.gpus) == (2, 1, 0)
    assert (settings.amp, settings.tta, settings.save_preds) == (True, True, True)


def test_missing_flag_is_named(missing_flag_is_named: Callable[..., None]) -> None:
    missing_flag_is_named(inference.main, "--ckpt_path")


def test_runs_as_a_script_from_any_folder(runs_as_a_script_from_any_folder: Callable[[str], None]) -> None:
    runs_as_a_script_from_any_folder("inference")
