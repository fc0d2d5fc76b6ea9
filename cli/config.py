"""``--config``: settings from a TOML or JSON file, as flat names or as one table a group."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cases.settings import Settings, SettingsError
from cli.fields import Field
from cli.hints import did_you_mean


def table_name(group: type[Settings]) -> str:
    """The table of a group: ``loader`` for LoaderSettings, ``few_cases`` for FewCasesSettings."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", group.__name__.removesuffix("Settings")).lower()


def read_config(path: Path, known: Mapping[str, Field]) -> dict[str, Any]:
    """Settings of a file, by the flags' names.

    Args:
        path: of the file.
        known: every flag of the program, by name.

    Raises:
        SettingsError: naming the file and every fault.
    """
    values = _flat(path, _parsed(path), known)
    names = [name for name in known if name != "config"]
    if unknown := sorted(set(values) - set(names)):
        named = ", ".join(name + did_you_mean(name, names) for name in unknown)
        raise SettingsError(f"--config {path}: unknown settings {named}")
    faults = []
    for name, value in values.items():
        try:
            values[name] = known[name].convert(value)
        except (TypeError, ValueError):
            faults.append(f"--config {path}: {name} = {value!r} does not fit --{name} {known[name].values}".rstrip())
    if faults:
        raise SettingsError("; ".join(faults))
    return values


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # both decoders' errors, and text that is not UTF-8
        raise SettingsError(f"--config {path} is neither TOML (*.toml) nor JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"--config {path} does not hold names and values")
    return values


def _flat(path: Path, values: dict[str, Any], known: Mapping[str, Field]) -> dict[str, Any]:
    """Tables opened; a name in the table of another group is a fault, and so is one that stands twice."""
    flat = {name: value for name, value in values.items() if not isinstance(value, dict)}
    tables = {table_name(f.group) for f in known.values()}
    for table, entries in values.items():
        if not isinstance(entries, dict):
            continue
        if table not in tables:
            raise SettingsError(f"--config {path}: unknown table [{table}]{did_you_mean(table, sorted(tables))}")
        if twice := sorted(set(entries) & set(flat)):
            raise SettingsError(f"--config {path}: {', '.join(twice)} stand twice")
        flat |= entries
    return flat
