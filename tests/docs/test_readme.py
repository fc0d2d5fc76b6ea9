"""README and docs: length, links, names of files, and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.pages import PAGES, PLACES, ROOT, without_blocks

NOT_IN_THE_TREE = {
    *PLACES,
    *PLACES.values(),
    "file.py",
    "path/to/file.py",
    "__init__.py",
    "train.txt",
    "pretrained.txt",
}
_FILE = re.compile(r"`([\w./-]+\.(?:py|sh|txt|toml|md|svg))\b[^`]*`")
_LINK = re.compile(r"(?:\]\(|src=\")([^)\s\"]+)[)\"]")
NAMES = [page.name for page in PAGES]


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_line_is_wider_than_the_code(page: Path) -> None:
    if page.name == "commands.md":
        pytest.skip("generated")
    text = re.sub(r"^\|.*$", "", without_blocks(page), flags=re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 125] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(without_blocks(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if not linked.is_file() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """What headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_file_named_exists(page: Path) -> None:
    named = set(_FILE.findall(without_blocks(page))) - NOT_IN_THE_TREE
    folders = (ROOT, ROOT / "docs")
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


def test_the_pipeline_is_drawn_in_well_formed_svg_that_loads_nothing() -> None:
    path = ROOT / "docs/images/pipeline.svg"
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "http" not in path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")


def test_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/images").iterdir()}
    assert set(sizes) == {"pipeline.svg", "quickstart.png", "transfer_hippocampus.png"}
    assert max(sizes.values()) < 200_000
