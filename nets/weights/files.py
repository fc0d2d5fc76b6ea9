"""Files of weights, read without running anything that they hold."""

from __future__ import annotations

import codecs
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


class WeightsError(ValueError):
    """A file that holds no weights, or weights that do not suit the network."""


def load_safely(path: Path) -> dict[str, Any]:
    """``torch.load`` of tensors and plain values, NumPy scalars among them; nothing else is unpickled.

    Raises:
        WeightsError: naming the file and what it holds instead.
    """
    if not _may_hold_pickles(path):
        raise WeightsError(f"{path} is no checkpoint, or a damaged one: it does not begin as torch.save's files do")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged or foreign file fails in whatever way its bytes suggest
        text = " ".join(str(error).split())
        found = re.search(r"(?:GLOBAL|Unsupported (?:global|class))[: ]+(?:GLOBAL )?([A-Za-z_][\w.]+)", text)
        if found:
            raise WeightsError(
                f"{path} holds Python objects ({found.group(1)}), not weights alone; nothing of it was run: "
                "save its state_dict() instead"
            ) from error
        raise WeightsError(
            f"{path} is no checkpoint, or a damaged one ({text[:120] or type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _may_hold_pickles(path: Path) -> bool:
    """Whether a file is a zip archive, a binary pickle or a tar archive, the three that PyTorch has ever written."""
    with path.open("rb") as file:
        start = file.read(4)
    return start[:1] == b"\x80" or start == b"PK\x03\x04" or (bool(start) and tarfile.is_tarfile(path))


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number needs, under its names in NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [*((scalar, name) for name in names), np.dtype, *dtypes, (codecs.encode, "_codecs.encode")]
