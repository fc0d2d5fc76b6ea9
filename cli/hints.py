"""What a user may have meant by a flag that does not exist, or by a value too many."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``: did you mean ...?`` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]}?" if close else ""


def unknown_arguments(argv: Sequence[str], unknown: Sequence[str], known: Mapping[str, bool]) -> list[str]:
    """Faults: flags that do not exist, and values beyond the one that a flag takes, as a shell's pattern gives.

    Args:
        argv: the whole command line.
        unknown: what no flag took of it.
        known: every spelling of a flag, and whether it takes several values.
    """
    faults = []
    for flag in (text for text in unknown if text.startswith("-")):
        faults.append(f"unrecognized arguments: {flag}{did_you_mean(flag.partition('=')[0], list(known))}")
    values: dict[str, list[str]] = {}
    flag = ""
    for text in argv:
        if text.startswith("-"):
            flag, _, value = text.partition("=")
            values[flag] = [value] if value else []
        else:
            values.setdefault(flag, []).append(text)
    for flag, given in values.items():
        if not flag:
            faults.append(f"values without a flag: {' '.join(given)}")
        elif not known.get(flag, True) and len(given) > 1 and given[-1] in unknown:
            faults.append(f"{flag} takes one value (one file), not these {len(given)}: {', '.join(given)}")
    return faults or [f"unrecognized arguments: {' '.join(unknown)}"] * bool(unknown)
