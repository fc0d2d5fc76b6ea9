"""Whether Triton can be used here."""

from __future__ import annotations

import os
import shutil
import sysconfig
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether Triton is installed, with the C compiler and the Python header that it needs to start a kernel.

    Asked for when a kernel is wanted, not at import; the answer is kept.
    """
    return not why_not()


def why_not() -> str:
    """What is missing, in words; empty where nothing is."""
    if find_spec("triton") is None:
        return "no Triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler for Triton"
    header = Path(sysconfig.get_config_var("INCLUDEPY") or "", "Python.h")
    return "" if header.is_file() else "no Python.h for Triton"
