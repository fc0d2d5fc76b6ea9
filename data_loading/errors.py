"""What goes wrong while loading, as one line that a user can act upon."""

from __future__ import annotations


class LoaderError(ValueError):
    """Data or settings that cannot be loaded from."""
