"""Files that are written whole or not at all: beside their place under a temporary name, then renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def whole_file(target: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """The temporary path to write to; it takes the target's place when the block ends well, and is gone otherwise.

    Args:
        target: the file.
        keep_suffix: for libraries that choose a format by it; otherwise the temporary name ends in ``.tmp``, which no
            listing of cases or checkpoints takes for one.
    """
    temporary = target.with_name(f".tmp.{target.name}" if keep_suffix else f"{target.name}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """UTF-8 text."""
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, values: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """A JSON object and a line end. Raises ValueError for values that JSON does not know, nan among them."""
    write_text(target, json.dumps(values, indent=indent, allow_nan=False) + "\n")


def write_array(target: Path, array: np.ndarray) -> None:
    """An .npy file of format 1 in C order, so that regions can be read through a memory map."""
    with whole_file(target) as temporary:
        save_array(temporary, array)


def save_array(path: Path, array: np.ndarray) -> None:
    """The same to a path as it is, which :func:`whole_file` gave."""
    with path.open("wb") as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
