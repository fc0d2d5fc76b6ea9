"""The command reference is what the settings say, and the commands of all pages are ones that the programs take."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cli import modes
from cli.launch import split_at_dashes
from tests.docs.pages import PAGES, ROOT, blocks, commands

NOT_OF_SETTINGS = {"scripts/compare_benchmarks.py"}  # two files without flags
ALL = [pytest.param(page, argv, id=f"{page.stem}-{' '.join(argv)[:70]}") for page in PAGES for argv in commands(page)]


def told_by_its_name(path: Path) -> SimpleNamespace:
    """In the place of weights, which are not here: depth and shortcut of a ResNet, from its file's name."""
    found = re.match(r"resnet_(\d+)", path.name)
    return SimpleNamespace(resnet=(int(found[1]), "A" if found[1] in ("18", "34") else "B") if found else None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the files that docs/extending.md shows."""
    for title, text in blocks(ROOT / "docs/extending.md", "python"):
        if title.endswith(".py") and " " not in title:
            (tmp_path / title).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("nets.weights.matching.read_weights", told_by_its_name)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(("page", "argv"), ALL)
def test_the_programs_take_the_commands_shown(page: Path, argv: Sequence[str], folder: Path) -> None:
    name, own = argv[0], [text for text in argv[1:] if not text.startswith("...")]
    if name in NOT_OF_SETTINGS or own in ([], ["--help"]):
        return
    for weights in (text for text in own if text.startswith("resnet_")):
        (folder / weights).touch()
    given, extra = split_at_dashes(own)
    if "--help" in given:
        return
    generator().programs()[name].read(given)
    if extra:
        modes.PROGRAM.read(["--exec_mode", "train", *extra])


def test_the_pages_show_many_commands() -> None:
    assert len(ALL) > 60
    assert {argv.values[1][0] for argv in ALL} >= {"main.py", "preprocess.py", "evaluate.py", "download.py"}


def test_the_reference_is_up_to_date() -> None:
    made = generator().page()
    assert made == (ROOT / "docs/commands.md").read_text(encoding="utf-8"), "run python docs/generate_commands.py"


def test_the_reference_has_every_flag_of_main() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    missing = [name for name in modes.PROGRAM.every_field() if f"`--{name}`" not in text]
    assert missing == []


def test_text_in_angle_brackets_is_no_html() -> None:
    assert generator().without_html("/data/<task>, `--x <y>`") == "/data/&lt;task>, `--x <y>`"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_commands", ROOT / "docs/generate_commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
