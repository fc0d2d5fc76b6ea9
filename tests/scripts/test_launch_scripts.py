"""What the scripts hand to main.py, and that its parser takes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import inference, launch, train
from settings import MainSettings, parse

Runs = list[list[str]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Commands that would have run; each ends with status 3."""
    commands: Runs = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        assert not check
        commands.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(launch.subprocess, "run", run)
    return commands


def accepted(command: list[str]) -> MainSettings:
    assert command[:2] == [sys.executable, str(Path(__file__).parents[2] / "main.py")]
    return parse(MainSettings, command[2:], "main.py")


def test_published_settings_on_one_gpu(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--fold", "2", "--dim", "3", "--task", "04", "--gpus", "1", "--amp"]) == 3
    settings = accepted(runs[0])
    assert (settings.exec_mode, settings.task, settings.fold, settings.dim, settings.gpus) == ("train", "04", 2, 3, 1)
    assert (settings.batch_size, settings.val_batch_size, settings.layout) == (2, 1, "NDHWC")
    assert (settings.epochs, settings.skip_first_n_eval) == (300, 100)
    assert (settings.deep_supervision, settings.save_ckpt, settings.amp, settings.tta) == (True, True, True, False)
    assert (settings.affinity, settings.learning_rate, settings.logname) == ("disabled", 0.0008, None)
    assert "main.py --exec_mode train" in capsys.readouterr().out


def test_published_settings_on_several_gpus_in_2d(runs: Runs) -> None:
    train.main(["--fold", "0", "--dim", "2", "--gpus", "8", "--bind", "--resume_training", "--logname", "a.json"])
    settings = accepted(runs[0])
    assert (settings.batch_size, settings.val_batch_size, settings.layout) == (64, 64, "NCDHW")
    assert (settings.epochs, settings.skip_first_n_eval, settings.gpus) == (600, 150, 8)
    assert (settings.affinity, settings.resume_training) == ("socket_unique_continuous", True)
    assert settings.logname == "a.json"


def test_flags_after_the_dashes_win(runs: Runs) -> None:
    train.main(["--fold", "0", "--dim", "3", "--", "--epochs", "7", "--filters", "16", "32", "--no-deep_supervision"])
    settings = accepted(runs[0])
    assert (settings.epochs, settings.filters, settings.deep_supervision) == (7, (16, 32), False)


def test_prediction(runs: Runs) -> None:
    command = ["--data", "my data/04_3d/val", "--task", "04", "--fold", "1", "--dim", "3", "--ckpt_path", "a b.ckpt"]
    assert inference.main([*command, "--batch_size", "2", "--amp", "--tta", "--save_preds", "--", "--gpus", "0"]) == 3
    settings = accepted(runs[0])
    assert settings.exec_mode == "predict"
    assert (settings.data, settings.ckpt_path) == (Path("my data/04_3d/val"), Path("a b.ckpt"))
    assert (settings.val_batch_size, settings.fold, settings.gpus) == (2, 1, 0)
    assert (settings.amp, settings.tta, settings.save_preds) == (True, True, True)


@pytest.mark.parametrize(("script", "flag"), [(train.main, "--fold"), (inference.main, "--ckpt_path")])
def test_missing_flag_is_named(
    script: Callable[[list[str]], int], flag: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        script(["--dim", "3"])
    assert stop.value.code == 2
    assert flag in capsys.readouterr().err
    assert runs == []


@pytest.mark.parametrize("name", ["train", "inference"])
def test_runs_as_a_script_from_any_folder(name: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    command = [sys.executable, str(script), "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0
    assert "main.py's flags follow after --" in run.stdout
