"""What the scripts hand to main.py, and that its parser takes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli import launch
from cli.modes import parse_main

Runs = list[list[str]]
GPUS = ("CUDA_VISIBLE_DEVICES",)  # what a script may set for main.py
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Commands that would have run; each ends with status 3."""
    commands: Runs = []

    def run(command: list[str], check: bool, env: dict[str, str]) -> SimpleNamespace:
        assert not check
        assert env.items() >= {name: value for name, value in os.environ.items() if name not in GPUS}.items()
        commands.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(launch.subprocess, "run", run)
    return commands


@pytest.fixture
def accepted() -> Callable[[list[str]], SimpleNamespace]:
    """main.py's settings of a command that starts it."""

    def read(command: list[str]) -> SimpleNamespace:
        assert command[:2] == [sys.executable, str(SCRIPTS.with_name("main.py"))]
        return SimpleNamespace(
            **{entry.name: getattr(group, entry.name) for group in parse_main(command[2:]) for entry in fields(group)}
        )

    return read


@pytest.fixture
def missing_flag_is_named(runs: Runs, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def check(script: Callable[[list[str]], int], flag: str) -> None:
        with pytest.raises(SystemExit) as stop:
            script(["--dim", "3"])
        assert stop.value.code == 2
        assert flag in capsys.readouterr().err
        assert runs == []

    return check


@pytest.fixture
def runs_as_a_script_from_any_folder(tmp_path: Path) -> Callable[[str], None]:
    def check(name: str) -> None:
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
        assert run.returncode == 0
        assert "main.py's flags follow after --" in run.stdout

    return check
