"""``--help`` and the command reference of the documents: both are read off the groups."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import PurePath

from cases.settings import Settings
from cli.config import table_name
from cli.fields import Field, fields_of
from cli.mode import Mode, variant_groups

WIDTH, COLUMN = 110, 30


def overview(program: str, description: str, modes: Sequence[Mode], selectors: Sequence[type[Settings]]) -> str:
    """The modes, the flags that choose among them, and the groups with a line each."""
    lines = [description, "", "Modes; each shows its flags with --help behind it:"]
    lines += [_entry(f"{program} {mode.name}", mode.help) for mode in modes]
    lines += ["", *_groups(selectors), "Groups of flags:"]
    readers: dict[type[Settings], list[str]] = {}
    for mode in modes:
        for kind in mode.groups:
            readers.setdefault(kind, []).append(mode.name)
    for kind in readers:
        flags = " ".join(f"--{entry.name}" for entry in fields(kind))
        lines += [_entry(table_name(kind), f"{heading(kind)} {flags}")]
    return "\n".join(lines)


def mode_help(description: str, mode: Mode, groups: Sequence[type[Settings]]) -> str:
    """What a mode reads: every group with its flags, and those of the variants that one may name instead."""
    lines = [mode.help or description, "", *_groups(groups)]
    for title, owned in _variants(groups):
        lines += [title, *(line for line in _groups(owned))]
    return "\n".join(lines).rstrip()


def heading(kind: type[Settings]) -> str:
    """The first line of a group's docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def _groups(groups: Sequence[type[Settings]]) -> Iterator[str]:
    for kind in groups:
        own = fields_of((kind,))
        if own:
            yield f"{table_name(kind)}: {heading(kind)}"
            yield from (_flag(f) for f in own)
            yield ""


def _variants(groups: Sequence[type[Settings]]) -> Iterator[tuple[str, list[type[Settings]]]]:
    """The settings of variants that are not in use, by the flag that chooses them."""
    for f in fields_of(groups):
        owners: dict[tuple[type[Settings], ...], list[str]] = {}
        for name, owned in variant_groups(f).items():
            rest = tuple(kind for kind in owned if kind not in groups)
            if rest:
                owners.setdefault(rest, []).append(name)
        for rest, names in owners.items():
            yield f"With --{f.name} {', '.join(names)}:", list(rest)


def _flag(f: Field) -> str:
    name = ", ".join((f"--{f.name}", *(s for s in f.spellings if s.startswith("-"))))
    name = f"{name}, --no-{f.name}" if f.kind is bool and f.default is True else name
    return _entry(f"{name} {f.values}".rstrip(), f"{f.help} ({f.shown_default})")


def _entry(left: str, right: str) -> str:
    first = f"  {left}"
    wrapped = textwrap.wrap(right, WIDTH - COLUMN) or [""]
    if len(first) >= COLUMN:
        return "\n".join([first, *(" " * COLUMN + line for line in wrapped)])
    return "\n".join([first.ljust(COLUMN) + wrapped[0], *(" " * COLUMN + line for line in wrapped[1:])])


def reference(program: str, modes: Sequence[Mode], selectors: Sequence[type[Settings]]) -> str:
    """Markdown: a section for each group, with the modes that read it; variants' settings after the others."""
    lines = [f"## {program}", ""]
    if len(modes) > 1:
        lines += ["| mode | |", "|---|---|"]
        lines += [f"| `{mode.name}` | {mode.help} |" for mode in modes]
        lines += [""]
    readers: dict[type[Settings], list[str]] = {kind: [] for kind in selectors}
    for mode in modes:
        for kind in mode.groups:
            readers.setdefault(kind, []).append(f"`{mode.name}`")
    for kind, names in readers.items():
        where = f"Read by {', '.join(names)}." if names and len(modes) > 1 else ""
        lines += [*_section(kind, where)]
    for title, owned in _variants(tuple(readers)):
        for kind in owned:
            lines += [*_section(kind, title.rstrip(":") + ".")]
    return "\n".join(lines)


def _section(kind: type[Settings], where: str) -> Iterator[str]:
    own = fields_of((kind,))
    if not own:
        return
    yield from (f"### {table_name(kind)}", "", f"{heading(kind)} {where}".rstrip(), "")
    yield from ("| flag | default | |", "|---|---|---|")
    for f in own:
        spelled = ", ".join(f"`{text}`" for text in (f"--{f.name}", *f.spellings))
        values = f" `{f.values}`" if f.values else ""
        default = f.shown_default.removeprefix("default: ")
        yield f"| {spelled}{values} | {default} | {f.help} |".replace("|module", "\\|module")
    yield ""


def program_name(path: str) -> str:
    """``main.py`` of whatever path started it."""
    return PurePath(path).name
