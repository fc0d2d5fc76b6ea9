"""How the C library keeps the memory of a training on the CPU, and of the processes that read for it."""

from __future__ import annotations

import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names, malloc.h
NEVER = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, where it is glibc; returns whether it took that.

    Otherwise each step hands its activations back to the system and gets them again page by page, cleared:
    about a tenth of a step of 8 x 40x56x40 voxels on one core. The peak is the same. It lasts as long as the process:
    further calls do nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, NEVER) for name in (TRIM_THRESHOLD, MMAP_THRESHOLD))
