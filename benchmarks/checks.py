"""A check of settings that benchmarks share."""

from __future__ import annotations

from collections.abc import Collection

from cases.settings import Check


def among(known: Collection[str]) -> Check:
    """Each of the values is one of these names."""

    def check(value: tuple[str, ...]) -> str:
        unknown = [name for name in value if name not in known]
        return f"names {', '.join(unknown)}, which is none of {', '.join(known)}" if unknown else ""

    return check
