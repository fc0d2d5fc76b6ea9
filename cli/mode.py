"""A mode: one way to run a program, with the groups of settings that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cases.settings import Given, Settings
from cli.fields import Field, fields_of


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to run a program.

    Attributes:
        name: as it is typed: ``--exec_mode train --kind classification``.
        help: what it does, in a line.
        groups: the settings that it reads.
        run: does it; the exit status.
        chosen_by: values of the flags that choose it, such as {"exec_mode": "train", "kind": "segmentation"}.
        faults: of several groups together, in words.
        refuses: why it does not read a flag, where that says more than which modes do.
    """

    groups: tuple[type[Settings], ...]
    run: Callable[[Given], int] = lambda given: 0
    name: str = ""
    help: str = ""
    chosen_by: Mapping[str, Any] = field(default_factory=dict)
    faults: Callable[[Given], list[str]] = lambda given: []
    refuses: Mapping[str, str] = field(default_factory=dict)

    def unlike(self, other: Mode) -> str:
        """The flags that choose this mode and not the other one."""
        differ = {k: v for k, v in self.chosen_by.items() if other.chosen_by.get(k) != v and v is not False}
        return " ".join(f"--{k}" if v is True else f"--{k} {v}" for k, v in differ.items()) or self.name


@cache
def with_all_variants(groups: tuple[type[Settings], ...]) -> tuple[type[Settings], ...]:
    """The groups, and those of every variant in the tables that their settings name entries of."""
    found = list(groups)
    for kind in found:  # grows while it is read: variants may name variants
        for f in fields_of((kind,)):
            found += [more for owned in variant_groups(f).values() for more in owned if more not in found]
    return tuple(found)


def variant_groups(f: Field) -> dict[str, tuple[type[Settings], ...]]:
    """The groups of each variant that a field may name."""
    return {} if f.variants is None else {name: f.variants.settings_of(name) for name in f.variants}
