"""One flat command line out of the groups of settings that a mode reads.

Which mode of a program runs is told by a few flags, the fields of its ``selectors``. The mode names the groups that it
reads; a group's fields are its flags, and those of the variants that its values name come with them. Flags win over
``--config``, the file over ``--preset``, the preset over what other values imply, and that over the defaults. A flag
that the mode does not read is an error that says which modes do; all faults come in one message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from cases.registry import is_own
from cases.settings import Given, Settings, SettingsError
from cli.config import read_config
from cli.fields import Field, fields_of
from cli.help import mode_help, overview, program_name
from cli.hints import unknown_arguments
from cli.mode import Mode, variant_groups, with_all_variants

Values = dict[str, Any]
HELP = {"-h", "--help"}


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command.

    Attributes:
        description: shown by ``--help``.
        modes: all of them.
        selectors: the groups whose flags choose a mode; every mode reads them.
        choose: the mode, by the selectors' values. Raises SettingsError.
        presets: values by the name that ``--preset`` takes.
        rewrite: former spellings of a command line to today's. Raises SettingsError.
    """

    description: str
    modes: tuple[Mode, ...]
    selectors: tuple[type[Settings], ...] = ()
    choose: Callable[[Mapping[str, Any]], Mode] | None = None
    presets: Mapping[str, Values] = field(default_factory=dict)
    rewrite: Callable[[Sequence[str]], list[str]] = list

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Mode, Given]:
        """The mode and its settings. Exits with status 2 and one message for faults, with 0 after ``--help``."""
        argv = list(sys.argv[1:] if argv is None else argv)
        try:
            return self.read(argv)
        except SettingsError as error:
            _parser(()).error(str(error))

    def read(self, argv: Sequence[str]) -> tuple[Mode, Given]:
        """As :meth:`parse`. Raises SettingsError."""
        wanted = HELP & set(argv)
        argv = self.rewrite([text for text in argv if text not in HELP])
        line = _CommandLine(self, argv)
        mode = self._chosen(line)
        groups = self._groups(line, mode)
        if wanted:
            named = not self.selectors or any(name in line.given(self.selectors) for name in mode.chosen_by)
            name = program_name(sys.argv[0])
            print(
                mode_help(self.description, mode, groups)
                if named
                else overview(name, self.description, self.modes, self.selectors)
            )
            sys.exit(0)
        _, unknown = _parse_known(fields_of(groups), argv)
        faults = self._unread(mode, groups, unknown, line)
        result, more = _made(mode, groups, line.values(groups))
        faults += more
        if faults or (faults := mode.faults(result)):
            raise SettingsError("; ".join(dict.fromkeys(faults)))
        line.note_what_is_passed_over(mode, groups)
        return mode, result

    def _groups(self, line: _CommandLine, mode: Mode) -> tuple[type[Settings], ...]:
        """Of the mode and its variants. Where a missing file leaves these open, misspelt flags are told first."""
        try:
            return line.groups(mode)
        except ValueError as error:
            groups = (*self.selectors, *mode.groups)
            unknown = _parse_known(fields_of(with_all_variants(groups)), line.argv)[1]
            if faults := self._unread(mode, groups, unknown, line):
                raise SettingsError("; ".join(faults)) from error
            raise

    def _chosen(self, line: _CommandLine) -> Mode:
        if self.choose is None:
            return self.modes[0]
        defaults = {f.name: f.default for f in fields_of(self.selectors)}
        return self.choose(defaults | line.values(self.selectors))

    def every_field(self) -> dict[str, Field]:
        """Every flag of every mode and variant, by name."""
        everything: dict[str, Field] = {}
        for groups in (self.selectors, *(with_all_variants(mode.groups) for mode in self.modes)):
            for f in fields_of(groups):
                everything.setdefault(f.name, f)
        return everything

    def _unread(
        self, mode: Mode, groups: Sequence[type[Settings]], unknown: Sequence[str], line: _CommandLine
    ) -> list[str]:
        """Faults: flags of other modes, of variants that are not in use, misspelt ones, and values without a flag."""
        if not unknown:
            return []
        elsewhere = {option: f for f in self.every_field().values() for option in f.options}
        faults, rest, skipping = [], [], False
        for text in unknown:
            option = text.partition("=")[0]
            if text.startswith("--") or option in elsewhere:
                skipping = option in elsewhere
                if skipping:
                    faults.append(self._not_read(mode, groups, elsewhere[option], line))
                    continue
            if not skipping:
                rest.append(text)
        known = {option: f.many for f in fields_of(groups) for option in f.options}
        return faults + (unknown_arguments(line.argv, rest, known) if rest else [])

    def _not_read(self, mode: Mode, groups: Sequence[type[Settings]], f: Field, line: _CommandLine) -> str:
        """Which variants, or which modes, read a flag that is not read here."""
        for kind in groups:
            if f.name in kind.refuses:
                return f"--{f.name}: {kind.refuses[f.name]}"
        if f.name in mode.refuses:
            return f"--{f.name} is not for {mode.name}: {mode.refuses[f.name]}"
        for chooser in fields_of(groups):
            owners = [n for n, kinds in variant_groups(chooser).items() if f.name in _names(kinds)]
            if owners:
                value = line.values([chooser.group]).get(chooser.name, chooser.default)
                flag = f"--{chooser.name}"
                return f"--{f.name} is for {flag} {', '.join(owners)}: it and {flag} {value} exclude each other"
        said = f"--{f.name}"
        if f.choices or f.variants is not None:
            said = f"{said} {_value_of(f, line.argv)}".rstrip()
        readers = [other for other in self.modes if f.name in _names(with_all_variants(other.groups))]
        return f"{said} is not for {mode.name}: {said} is for {_joined([reader.unlike(mode) for reader in readers])}"


class _CommandLine:
    """What flags, ``--config``, ``--preset`` and the rest imply say of the fields of any groups."""

    def __init__(self, program: Program, argv: Sequence[str]) -> None:
        self.program, self.argv = program, argv
        first = self.given(program.selectors)
        self.config = read_config(Path(first["config"]), program.every_field()) if first.get("config") else {}
        self.preset = program.presets.get(str(({**self.config, **first}).get("preset")), {})

    def given(self, groups: Sequence[type[Settings]]) -> Values:
        return _parse_known(fields_of(groups), self.argv)[0]

    def values(self, groups: Sequence[type[Settings]]) -> Values:
        """Of the fields of these groups, where anything says them."""
        said = {**self.preset, **self.config, **self.given(groups)}
        implied: Values = {}
        for kind in groups:
            implied |= kind.implied(said)
        names = _names(groups)
        return {name: value for name, value in {**implied, **said}.items() if name in names}

    def groups(self, mode: Mode) -> tuple[type[Settings], ...]:
        """The selectors, the mode's groups, and those of the variants that its settings name."""
        found = list(dict.fromkeys((*self.program.selectors, *mode.groups)))
        seen = 0
        while seen < len(found):
            kind, seen = found[seen], seen + 1
            for f in fields_of((kind,)):
                if f.variants is not None:
                    found += [more for more in self._named(mode, f, tuple(found)) if more not in found]
        return tuple(found)

    def _named(self, mode: Mode, f: Field, groups: tuple[type[Settings], ...]) -> list[type[Settings]]:
        """The groups of the variants that a field names."""
        assert f.variants is not None
        value = self.values(groups).get(f.name, f.default)
        owned: list[type[Settings]] = []
        for name in value if isinstance(value, tuple) else (value,):
            if name is None or name is MISSING:
                continue
            if name not in f.variants and not is_own(name):
                self._refuse_of_other_mode(mode, f.name, name)
            try:
                owned += f.variants.settings_of(name)
            except SettingsError as error:
                raise SettingsError(f"--{f.name}: {error}") from error
        return owned

    def _refuse_of_other_mode(self, mode: Mode, flag: str, value: str) -> None:
        for other in self.program.modes:
            if any(f.name == flag and value in (f.variants or f.choices) for f in fields_of(other.groups)):
                raise SettingsError(f"--{flag} {value} is not for {mode.unlike(other)}, but for {other.unlike(mode)}")

    def note_what_is_passed_over(self, mode: Mode, groups: Sequence[type[Settings]]) -> None:
        """A file may serve several modes: say what this one does not read of it."""
        if rest := sorted(set(self.config) - _names(groups)):
            print(f"note: --config: {mode.name} does not read {', '.join(rest)}", file=sys.stderr)


def parse(groups: Sequence[type[Settings]], argv: Sequence[str] | None, description: str) -> Given:
    """Settings of a program that has a single mode."""
    return Program(description=description, modes=(Mode(groups=tuple(groups)),)).parse(argv)[1]


def _value_of(f: Field, argv: Sequence[str]) -> str:
    """What was typed behind a flag, which need not be one of its values."""
    for text, following in zip(argv, [*argv[1:], ""], strict=True):
        option, _, value = text.partition("=")
        if option in f.options:
            return value or ("" if following.startswith("-") else following)
    return ""


def _joined(modes: Sequence[str]) -> str:
    """``--exec_mode pretrain and train`` of ``--exec_mode pretrain``, ``--exec_mode train`` and modes within these."""
    widest = [mode for mode in dict.fromkeys(modes) if not any(mode.startswith(f"{other} ") for other in modes)]
    flags = {mode.rpartition(" ")[0] for mode in widest}
    if len(flags) > 1 or flags == {""}:
        return " or ".join(widest)
    return f"{flags.pop()} {' and '.join(mode.rpartition(' ')[2] for mode in widest)}"


def _names(groups: Sequence[type[Settings]]) -> set[str]:
    return {f.name for f in fields_of(groups)}


def _made(mode: Mode, groups: Sequence[type[Settings]], values: Values) -> tuple[Given, list[str]]:
    """The groups made of these values, and the faults of those that cannot be made."""
    made, faults = [], []
    for kind in groups:
        own = fields_of((kind,))
        missing = [f.name for f in own if f.default is MISSING and f.name not in values]
        if missing:
            faults += [f"{mode.name} needs --{name}" if mode.name else f"--{name} is required" for name in missing]
            continue
        try:
            made.append(kind(**{f.name: values[f.name] for f in own if f.name in values}))
        except ValueError as error:
            faults.append(str(error))
    return Given(tuple(made)), faults


def without(groups: Sequence[type[Settings]], argv: Sequence[str]) -> list[str]:
    """The arguments that are not these groups' flags and values."""
    return _parse_known(fields_of(groups), argv)[1]


def _parse_known(fields: Sequence[Field], argv: Sequence[str]) -> tuple[Values, list[str]]:
    """Values of these fields' flags, and what is left of the command line."""
    found, unknown = _parser(fields).parse_known_args(list(argv))
    return {name: tuple(v) if isinstance(v, list) else v for name, v in vars(found).items()}, unknown


def _parser(fields: Sequence[Field]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [flags]; --help lists them",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    for f in fields:
        f.add_to(parser)
    return parser
