"""README and docs as the tests read them: code blocks, links, and names of files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PROGRAMS = ("main.py", "preprocess.py", "evaluate.py", "download.py", "scripts/")
PLACES = {  # of the files that docs/extending.md shows, in the tree
    "tversky.py": "training/losses/tversky.py",
    "bias_field.py": "data_loading/augmentation/bias_field.py",
    "strided.py": "nets/encoders/strided.py",
    "npz_scan.py": "cases/volumes/npz_scan.py",
    "mask.py": "pretraining/masked/mask.py",
    "masked.py": "pretraining/masked/masked.py",
}
_BLOCK = re.compile(r"^```(\w+)?(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(title or "", text) of every fenced block of a language."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(title, text) for kind, title, text in found if kind == language]


def commands(page: Path) -> list[list[str]]:
    """Every ``python PROGRAM ...`` in the page's bash blocks as arguments, PROGRAM first."""
    lines = [
        line.strip()
        for _, text in blocks(page, "bash")
        for line in text.replace("\\\n", " ").splitlines()
        if not line.lstrip().startswith("#")
    ]
    split = [shlex.split(line, comments=True) for line in lines]
    starts = [(words, words.index("python") + 1) for words in split if "python" in words]
    return [words[first:] for words, first in starts if words[first].startswith(PROGRAMS)]


def without_blocks(page: Path) -> str:
    """The page's text outside fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
