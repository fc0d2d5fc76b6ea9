"""Start ``main.py`` or ``preprocess.py`` as a user does, in a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

MAIN = Path(__file__).resolve().parents[1] / "main.py"
PREPROCESS = MAIN.with_name("preprocess.py")


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A script's own arguments, and those after ``--``, which are ``main.py``'s."""
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def as_flags(values: Mapping[str, object]) -> list[str]:
    """``--name value`` for each of the values."""
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def switches(settings: object, names: Sequence[str]) -> list[str]:
    """``--name`` for each of the names that is on in the settings."""
    return [f"--{name}" for name in names if getattr(settings, name)]


def launch(arguments: Sequence[str], program: Path = MAIN, *, environment: Mapping[str, str] | None = None) -> int:
    """Print and run a program with these arguments; its exit status is returned, 130 for an interruption.

    ``environment`` holds variables that the process gets besides those of this one.
    """
    command = [sys.executable, str(program), *arguments]
    more = dict(environment or {})
    print(shlex.join([*(f"{name}={value}" for name, value in more.items()), *command]), flush=True)
    try:
        return subprocess.run(command, check=False, env={**os.environ, **more}).returncode
    except KeyboardInterrupt:  # the program got it too and has said so
        return 130
