"""A field of a group of settings as a flag of the command line and as a name of a configuration file."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, Union

from cases.registry import Registry
from cases.settings import Settings, shown


@dataclass(frozen=True, kw_only=True)
class Field:
    """What the command line needs to know of a field.

    Attributes:
        name: of the field and its flag.
        group: the class that declares it.
        kind: type of its value, or of each of its values.
        optional: None is a value too.
        count: "*", "+" or a number where it takes several values; None for one.
        choices: the only values, where there are only some.
        spellings: further flags.
    """

    name: str
    group: type[Settings]
    kind: Any
    optional: bool
    count: str | int | None
    choices: tuple[Any, ...]
    default: Any
    help: str
    spellings: tuple[str, ...]
    const: Any
    variants: Registry[Any] | None

    @property
    def options(self) -> tuple[str, ...]:
        """Every spelling of the flag."""
        negated = (f"--no-{self.name}",) if self.kind is bool else ()
        return (f"--{self.name}", *self.spellings, *negated)

    @property
    def many(self) -> bool:
        return self.count is not None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        flags = (f"--{self.name}", *self.spellings)
        if self.kind is bool:
            parser.add_argument(*flags, dest=self.name, action=argparse.BooleanOptionalAction)
            return
        options: dict[str, Any] = {"choices": self.choices} if self.choices else {}
        if self.const is not None:
            options |= {"nargs": "?", "const": self.const}
        elif self.count is not None:
            options["nargs"] = self.count
        parser.add_argument(*flags, dest=self.name, type=self.kind, **options)

    def convert(self, value: Any) -> Any:
        """A value of a configuration file. Raises TypeError or ValueError where it does not fit."""
        if value is None and self.optional:
            return None
        if self.many:
            if isinstance(value, str):
                if self.kind is not str:
                    raise TypeError(value)
                value = (value,)  # a name alone
            return tuple(self._one(item) for item in value)
        return self._one(value)

    def _one(self, value: Any) -> Any:
        if self.choices:
            if value not in self.choices:
                raise ValueError(value)
            return value
        if isinstance(value, bool) != (self.kind is bool):
            raise TypeError(value)
        return self.kind(value)

    @property
    def values(self) -> str:
        """What may follow the flag, for help."""
        if self.kind is bool:
            return ""
        if self.choices:
            one = "{" + ",".join(map(str, self.choices)) + "}"
        elif self.variants is not None:
            one = "{" + ",".join(self.variants) + ",module:object,file.py:object}"
        else:
            one = {int: "N", float: "X", str: "NAME"}.get(self.kind, "PATH")
        if isinstance(self.count, int):
            return " ".join([one] * self.count)
        return f"[{one}]" if self.const is not None else f"{one} ..." if self.many else one

    @property
    def shown_default(self) -> str:
        return "required" if self.default is MISSING else f"default: {shown(self.default)}"


def fields_of(groups: Sequence[type[Settings]]) -> list[Field]:
    """The fields of all groups, in their order; a name that two of them share is listed once, as the first has it."""
    found: dict[str, Field] = {}
    for group in groups:
        for entry in _own_fields(group):  # type: ignore[arg-type]  # a class can be hashed
            found.setdefault(entry.name, entry)
    return list(found.values())


@cache
def _own_fields(group: type[Settings]) -> tuple[Field, ...]:
    hints = typing.get_type_hints(group)
    found = []
    for entry in fields(group):
        kind, optional, count = _unwrap(hints[entry.name])
        choices: tuple[Any, ...] = ()
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            kind = type(choices[0])
        meta = entry.metadata
        found.append(
            Field(
                name=entry.name,
                group=group,
                kind=kind,
                optional=optional,
                count=count,
                choices=choices,
                default=entry.default,
                help=meta["help"],
                spellings=meta["flags"],
                const=meta["const"],
                variants=meta["variants"],
            )
        )
    return tuple(found)


def _unwrap(kind: Any) -> tuple[Any, bool, str | int | None]:
    """(element type, may be None, how many values) of a field's type."""
    optional = False
    if typing.get_origin(kind) in (Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        optional, kind = True, members[0]
    if typing.get_origin(kind) is tuple:
        members = list(typing.get_args(kind))
        return members[0], optional, "*" if members[-1] is Ellipsis else len(members)
    return kind, optional, None
