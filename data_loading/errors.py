"""The error of all that loads."""

from __future__ import annotations


class LoaderError(ValueError):
    """Data or settings that cannot be loaded from."""
