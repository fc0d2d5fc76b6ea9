"""The whole check: its command line, its files, and the script that finds it a Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import MEASURES, PARTS
from benchmarks.gpu_check.report import Report, Row
from cases.settings import SettingsError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"


class Made:
    """A worker that has one row for each part."""

    def __init__(self, conditions: Conditions, log: Path) -> None:
        self.conditions = conditions

    def run(self, part: str, limit: float) -> Iterator[Row]:
        yield Row(part=part, what=f"{part} is fine", value=self.conditions.channels)

    def stop(self) -> None:
        pass


def test_parts_that_are_wanted() -> None:
    assert [part.name for part in program.CheckSettings().parts] == list(PARTS)
    assert [part.name for part in program.CheckSettings(only=("speed", "machine")).parts] == ["machine", "speed"]
    assert "tests" not in [part.name for part in program.CheckSettings(skip=("tests",)).parts]
    with pytest.raises(SettingsError, match="--only and --skip leave no part"):
        program.CheckSettings(only=("tests",), skip=("tests",))
    with pytest.raises(SettingsError, match="--skip lunch names lunch, which is none of machine"):
        program.CheckSettings(skip=("lunch",))


@pytest.mark.parametrize("name", list(PARTS))
def test_every_part_can_be_measured(name: str) -> None:
    assert callable(MEASURES.get(name))


def test_a_check_leaves_report_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "check", lambda s, c, found=program.check: found(s, c, Made))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert program.main(["--results", str(tmp_path / "new"), "--skip", "tests"]) == 3
    said = capsys.readouterr().out
    assert "no GPU here" in said and "speed is fine" in said
    report = Report.load(tmp_path / "new" / "gpu_check.json")
    assert list(report.parts) == sorted((name for name in PARTS if name != "tests"), key=lambda n: PARTS[n].rank)
    assert report.gpu is None and report.revision
    assert "| speed | speed is fine | 2 |" in (tmp_path / "new" / "gpu_check.md").read_text(encoding="utf-8")


def test_no_time_at_all_skips_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = program.CheckSettings(minutes=0.001, results=tmp_path)
    report = program.check(settings, Conditions.on(None, tmp_path), Made)
    assert {part["state"] for part in report.parts.values()} == {"skipped"}
    assert "machine: skipped" in capsys.readouterr().out


def python_that_tells(folder: Path) -> Path:
    """A program in a Python's place that prints what it was asked to run."""
    program = folder / "told"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@" "PWD=$PWD" "UTF8=$PYTHONUTF8"\nexit 4\n')
    program.chmod(0o755)
    return program


def bash(*arguments: str, cwd: Path, script: Path = SCRIPT, **environment: str) -> Any:
    command = ["bash", str(script), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, encoding="utf-8", check=False
    )


def test_the_script_hands_flags_and_status_on(tmp_path: Path) -> None:
    python_that_tells(tmp_path)
    for given in (["--python", "./told"], ["--python=./told"]):
        done = bash("--only", "speed", *given, "--minutes", "3", cwd=tmp_path)
        assert done.returncode == 4
        flags = ["-m", "benchmarks.gpu_check", "--only", "speed", "--minutes", "3", f"PWD={ROOT}", "UTF8=1"]
        assert done.stdout.splitlines() == flags


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--python"], "--python needs a path"),
        (["--python", "nowhere/python"], "--python nowhere/python is no program"),
        (["--from-wheels", "."], "holds no wheels: see --list-wheels"),
        (["--from-wheels"], "--from-wheels needs a path"),
    ],
)
def test_usage_is_told_with_status_2(arguments: list[str], fault: str, tmp_path: Path) -> None:
    done = bash(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "scripts/gpu_check.sh [--python PATH" in done.stderr


def test_a_wrong_flag_has_status_2(tmp_path: Path) -> None:
    done = bash("--python", sys.executable, "--mintues", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "--mintues" in done.stderr


def test_wheels_are_listed_without_any_package(tmp_path: Path) -> None:
    done = bash("--list-wheels", "--cuda", "13", cwd=tmp_path, PYTHON=sys.executable)
    assert done.returncode == 0
    assert "nvidia-dali-cuda130==" in done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the script needs, so that it makes its environment there; requirements of one made wheel."""
    tree = tmp_path / "tree"
    (tree / "benchmarks" / "gpu_check").mkdir(parents=True)
    (tree / "scripts").mkdir()
    shutil.copy(SCRIPT, tree / "scripts")
    shutil.copy(ROOT / "benchmarks" / "gpu_check" / "wheels.py", tree / "benchmarks" / "gpu_check")
    (tree / "benchmarks" / "gpu_check" / "__main__.py").write_text("import made_up\nprint(made_up.__file__)\n")
    (tree / "requirements.txt").write_text("made-up==1.0\n")
    (tree / "requirements-dev.txt").write_text("-r requirements.txt\n")
    return tree


def made_wheel(folder: Path) -> None:
    """The smallest wheel there is."""
    from zipfile import ZipFile

    folder.mkdir()
    with ZipFile(folder / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up.py", "")
        wheel.writestr("made_up-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
        wheel.writestr("made_up-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("made_up-1.0.dist-info/RECORD", "")


def test_an_environment_of_local_wheels_alone(checkout: Path, tmp_path: Path) -> None:
    made_wheel(tmp_path / "wheels")
    script = checkout / "scripts" / "gpu_check.sh"
    offline = {"PYTHON": sys.executable, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PYTHONPATH": ""}
    for _ in range(2):  # the second time it is there already
        done = bash("--from-wheels", "wheels", cwd=tmp_path, script=script, **offline)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(checkout / ".venv" / "from-wheels"))


def test_wheels_on_top_of_another_environment(checkout: Path, tmp_path: Path) -> None:
    """By a program in its Python's place, which keeps what it is asked for and lies in what it makes."""
    made_wheel(tmp_path / "wheels")
    log, base = tmp_path / "log", tmp_path / "base"
    base.write_text(
        f'#!/bin/bash\necho "$*" >> {log}\n'
        'if [[ $2 == venv ]]; then mkdir -p "${!#}/bin"; cp "$0" "${!#}/bin/python"; fi\n'
    )
    base.chmod(0o755)
    script = checkout / "scripts" / "gpu_check.sh"
    done = bash("--from-wheels", "wheels", "--python", str(base), cwd=tmp_path, script=script)
    assert done.returncode == 0, done.stderr
    venv, pip, check = log.read_text().splitlines()
    assert venv == "-m venv --system-site-packages .venv/from-wheels"
    folder = tmp_path / "wheels"
    assert pip.endswith(f"--no-index --find-links {folder} --no-deps {folder}/made_up-1.0-py3-none-any.whl")
    assert check == "-m benchmarks.gpu_check"


def test_wheels_that_are_lacking_are_named(checkout: Path, tmp_path: Path) -> None:
    made_wheel(tmp_path / "wheels")
    (checkout / "requirements.txt").write_text("made-up==1.0\nother==2.0\n")
    script = checkout / "scripts" / "gpu_check.sh"
    done = bash("--from-wheels", "wheels", cwd=tmp_path, script=script, PYTHON=sys.executable)
    assert done.returncode == 2
    assert "lacks other==2.0" in done.stderr
