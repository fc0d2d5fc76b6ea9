"""Headers in text, MetaImage's and NRRD's: bounded lines, numbers that are numbers, files beside the header."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

import numpy as np

from cases.volumes.format import VolumeError
from cases.volumes.geometry import Geometry

LONGEST_LINE = 1 << 20  # bytes; Slicer's segmentations keep long ones
MOST_LINES = 100_000
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

T = TypeVar("T", int, float)


def header_line(stream: BinaryIO) -> str | None:
    """The next line without its end, None behind the last. Raises ValueError for an endless one."""
    line = stream.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a header line of more than {LONGEST_LINE} bytes")
    return line.decode("utf-8", errors="replace").rstrip("\r\n") if line else None


class Fields:
    """What a header says, by key, as text that is asked for what it must be.

    Args:
        path: of the header, for messages.
        values: by key.
    """

    def __init__(self, path: Path, values: Mapping[str, str]) -> None:
        self.path, self._values = path, values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fail(self, key: str, wanted: str) -> NoReturn:
        """Raise VolumeError for a field that is not what it must be."""
        found = self._values.get(key)
        said = f"no {key}" if found is None else f"{key} {found[:80]!r}"
        raise VolumeError(f"{self.path} is damaged or not an image: its header has {said}, not {wanted}; get it anew")

    def text(self, key: str, default: str | None = None) -> str:
        found = self._values.get(key, default)
        return self.fail(key, "what must be there") if found is None else found

    def first(self, *keys: str) -> str | None:
        """The one of a field's names that is there. Raises VolumeError for two that contradict each other."""
        there = [key for key in keys if key in self._values]
        if len({self._values[key] for key in there}) > 1:
            self.fail(there[1], f"what {there[0]} is, its other name")
        return there[0] if there else None

    def choice(self, key: str, table: Mapping[str, object], default: str | None = None) -> str:
        """A key of a table, in lower case."""
        word = self.text(key, default).lower()
        return word if word in table else self.fail(key, f"one of {', '.join(table)}")

    def numbers(self, key: str, count: int, kind: Callable[[str], T], default: Sequence[T] | None = None) -> list[T]:
        """So many finite ones."""
        if default is not None and key not in self._values:
            return list(default)
        wanted = f"{count} finite numbers" if kind is float else f"{count} whole numbers"
        return self._numbers(key, self.text(key).split(), count, kind, wanted)

    def number(self, key: str, word: str) -> float:
        """One finite number that is part of a field."""
        return self._numbers(key, [word], 1, float, "finite numbers")[0]

    def each(self, key: str, count: int, default: str, wanted: Sequence[int]) -> list[str]:
        """The wanted ones of a field's ``count`` words."""
        words = self.text(key, " ".join([default] * count)).split()
        return [words[index] for index in wanted] if len(words) == count else self.fail(key, f"{count} words")

    def vector(self, key: str, word: str, count: int) -> list[float]:
        """NRRD's ``(x,y,z)``, which is part of a field."""
        if not (word.startswith("(") and word.endswith(")")):
            self.fail(key, "(x,y,z)")
        return self._numbers(key, word[1:-1].split(","), count, float, f"({count} finite numbers)")

    def sides(self, key: str, count: int) -> list[int]:
        """Numbers of voxels."""
        sides = self.numbers(key, count, int)
        return sides if min(sides) >= 1 else self.fail(key, "numbers from 1 on")

    def file_beside(self, key: str) -> Path:
        """The file of the voxels, which lies in the header's own folder."""
        name = self.text(key)
        if name.split()[:1] == ["LIST"] or "%" in name:
            raise VolumeError(f"{self.path}: its voxels are spread over several files ({name}); store them in one")
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise VolumeError(
                f"{self.path} names the file {name!r} for its voxels; only one beside it is read, by its bare name"
            )
        file = self.path.with_name(name)
        if not file.is_file():
            raise VolumeError(f"{self.path}: its voxels' file {file} does not exist")
        return file

    def _numbers(self, key: str, words: list[str], count: int, kind: Callable[[str], T], wanted: str) -> list[T]:
        try:
            found = [kind(word) for word in words]
        except ValueError:
            self.fail(key, wanted)
        return found if len(found) == count and all(map(math.isfinite, found)) else self.fail(key, wanted)


def geometry_of_lps(
    shape_dhw: Sequence[int], spacing_xyz: Sequence[float], axes: np.ndarray, origin_xyz: Sequence[float]
) -> Geometry:
    """From ITK's conventions: the columns of ``axes`` are the directions of x, y and z in LPS."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(spacing_xyz)
    affine[:3, 3] = origin_xyz
    return Geometry.of(shape_dhw, spacing_xyz[::-1], LPS_TO_RAS @ affine)
