"""The published settings, as main.py gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scripts import train

Runs = list[list[str]]
Read = Callable[[list[str]], Any]


def test_published_settings_on_one_gpu(runs: Runs, accepted: Read, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--fold", "2", "--dim", "3", "--task", "04", "--gpus", "1", "--amp"]) == 3
    settings = accepted(runs[0])
    assert (settings.exec_mode, settings.task, settings.fold, settings.dim, settings.gpus) == ("train", "04", 2, 3, 1)
    assert (settings.batch_size, settings.val_batch_size, settings.layout) == (2, 1, "NDHWC")
    assert (settings.epochs, settings.skip_first_n_eval) == (300, 100)
    assert (settings.deep_supervision, settings.save_ckpt, settings.amp, settings.tta) == (True, True, True, False)
    assert (settings.affinity, settings.learning_rate, settings.logname) == ("disabled", 0.0008, None)
    assert "main.py --exec_mode train" in capsys.readouterr().out


def test_published_settings_on_several_gpus_in_2d(runs: Runs, accepted: Read) -> None:
    train.main(["--fold", "0", "--dim", "2", "--gpus", "8", "--bind", "--resume_training", "--logname", "a.json"])
    settings = accepted(runs[0])
    assert (settings.batch_size, settings.val_batch_size, settings.layout) == (64, 64, "NCDHW")
    assert (settings.epochs, settings.skip_first_n_eval, settings.gpus) == (600, 150, 8)
    assert (settings.affinity, settings.resume_training) == ("socket_unique_continuous", True)
    assert settings.logname == "a.json"


def test_gpus_by_their_numbers(runs: Runs, accepted: Read, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(["--fold", "0", "--dim", "3", "--gpu_id", "3", "1"])
    settings = accepted(runs[0])
    assert (settings.gpus, settings.epochs) == (2, 600)
    assert capsys.readouterr().out.startswith("CUDA_VISIBLE_DEVICES=3,1 ")
    for wrong, told in ((["1", "1"], "names a GPU twice"), (["0", "--gpus", "2"], "--gpus 2 against 1 numbers")):
        with pytest.raises(SystemExit, match="2"):
            train.main(["--fold", "0", "--dim", "3", "--gpu_id", *wrong])
        assert told in capsys.readouterr().err


def test_flags_after_the_dashes_win(runs: Runs, accepted: Read) -> None:
    train.main(["--fold", "0", "--dim", "3", "--", "--epochs", "7", "--filters", "16", "32", "--no-deep_supervision"])
    settings = accepted(runs[0])
    assert (settings.epochs, settings.filters, settings.deep_supervision) == (7, (16, 32), False)


def test_missing_flag_is_named(missing_flag_is_named: Callable[..., None]) -> None:
    missing_flag_is_named(train.main, "--fold")


def test_runs_as_a_script_from_any_folder(runs_as_a_script_from_any_folder: Callable[[str], None]) -> None:
    runs_as_a_script_from_any_folder("train")
