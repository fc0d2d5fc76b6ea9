"""What a file format of scans is; one file a format, see nifti.py for an example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from cases.volumes.geometry import Geometry


class VolumeError(ValueError):
    """A file that holds no volume we can use."""


class Format:
    """Base of the formats. Libraries are imported where they are used, so that loader workers stay light.

    Attributes:
        suffixes: of its files, with the dot; empty for folders.
        write: ``write(path, array_dhw or array_cdhw, geometry)`` to a file of its suffix, None where it only reads.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    write: Callable[[Path, np.ndarray, Geometry], None] | None = None

    def owns(self, path: Path) -> bool:
        """Whether a path is one of its own; files go by their names alone, whether they are there or not."""
        return path.name.endswith(self.suffixes)

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """The array (C, D, H, W) as it is stored, which may be a view, and its grid.

        Raises:
            VolumeError: naming the file, for anything unreadable or of another dimension.
        """
        raise NotImplementedError
