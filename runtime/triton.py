"""Whether Triton's kernels can be built and run on this machine."""

from __future__ import annotations

import os
import shutil
import sysconfig
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether Triton is installed, and the C compiler and Python header that it needs to start a kernel."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_config_var("INCLUDEPY") or "", "Python.h")
    return find_spec("triton") is not None and compiler is not None and header.is_file()
