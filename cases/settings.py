"""Settings: frozen dataclasses beside the code that reads them, whose fields are the command line's flags.

A group is a subclass of :class:`Settings`; its docstring's first line heads it in ``--help``. Type, default, help,
check, and whether a resumed run must keep it are said once, on the field. ``cli/compose.py`` makes one flat command
line of the groups that a mode reads::

    @dataclass(frozen=True, kw_only=True)
    class FoldSettings(Settings):
        "Which cases train and which validate."

        nfolds: int = setting(5, "folds of the cross-validation", check=at_least(2))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from cases.registry import Registry

Check = Callable[[Any], str]  # what is wrong with a value, in words that follow it; empty where nothing is
Kept = bool | Callable[[Mapping[str, Any]], bool]


class SettingsError(ValueError):
    """Settings that cannot be used; the message lists every fault."""


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flags: tuple[str, ...] = (),
    const: Any = None,
    check: Check | None = None,
    variants: Registry[Any] | None = None,
    kept: Kept = True,
) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: its value where nobody gives one; without it the flag is required.
        help: shown by ``--help``.
        flags: further names, such as ``-w``; also names under which earlier versions stored it.
        const: value of the bare flag, for a flag whose argument may be left out.
        check: of a value that is not None; see :func:`at_least` and its neighbours.
        variants: the table that its value, or each of its values, names an entry of, or ``module:object``. The
            settings of the entries that are named become flags too.
        kept: whether a resumed run must have the same value; a function tells it from the run's settings.
    """
    metadata = {"help": help, "flags": flags, "const": const, "check": check, "variants": variants, "kept": kept}
    return field(default=default, metadata=metadata)


def above(least: float) -> Check:
    """The value, or each of its values, is larger than this."""
    return _each(lambda value: value > least, f"is not above {least:g}")


def at_least(least: float) -> Check:
    """The value, or each of its values, is this or larger."""
    return _each(lambda value: value >= least, f"is below {least:g}")


def within(low: float, high: float) -> Check:
    """The value, or each of its values, lies in [low, high]."""
    return _each(lambda value: low <= value <= high, f"is not in {low:g}..{high:g}")


def _each(holds: Callable[[Any], bool], words: str) -> Check:
    return lambda value: "" if all(map(holds, value if isinstance(value, tuple) else (value,))) else words


def probability(value: float) -> str:
    """The value is a probability."""
    return "" if 0 <= value <= 1 else "is not a probability"


def below_one(value: float) -> str:
    """The value lies in [0, 1)."""
    return "" if 0 <= value < 1 else "is not in [0, 1)"


def rising(value: tuple[float, float]) -> str:
    """The value is a range: two numbers, neither negative, the second no less than the first."""
    return "" if 0 <= value[0] <= value[1] else "is not a range of positive numbers"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every group of settings. Making one checks it: all faults come in one message.

    Attributes:
        error: what faults are raised as.
        refuses: flags that are not read where this group is, and why, where that says more than who does.
    """

    error: ClassVar[type[ValueError]] = SettingsError
    refuses: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if faults := [*self._field_faults(), *self.faults()]:
            raise self.error("; ".join(faults))

    def faults(self) -> list[str]:
        """What is wrong with the values together; each field's own check is done already."""
        return []

    def _field_faults(self) -> list[str]:
        faults = []
        for entry in fields(self):
            check, value = entry.metadata.get("check"), getattr(self, entry.name)
            if check is not None and value is not None and (words := check(value)):
                faults.append(f"--{entry.name} {shown(value)} {words}")
        return faults

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of fields that nobody gave and that follow from others, such as a network from its weights.

        Args:
            given: what the command line, the file and the preset say, by field name, of all groups of the mode.
        """
        return {}


G = TypeVar("G", bound=Settings)


@dataclass(frozen=True)
class Given:
    """What a command was given: ``given[FoldSettings].fold``.

    Attributes:
        groups: one of each kind that the mode reads; a kind is found by its own class or by one that it extends.
    """

    groups: tuple[Settings, ...]

    def __getitem__(self, kind: type[G]) -> G:
        for group in self.groups:
            if isinstance(group, kind):
                return group
        raise KeyError(f"the mode does not read {kind.__name__}")

    def get(self, kind: type[G]) -> G:
        """The group, or its defaults where the mode does not read it."""
        return self[kind] if kind in self else kind()

    def __contains__(self, kind: type[Settings]) -> bool:
        return any(isinstance(group, kind) for group in self.groups)

    def __iter__(self) -> Iterator[Settings]:
        return iter(self.groups)

    def with_(self, group: Settings) -> Given:
        """The same, with this group in the place of the one of its kind."""
        return Given(tuple(group if type(old) is type(group) else old for old in self.groups))

    def as_json(self) -> dict[str, Any]:
        """All settings, by name, as params.json and checkpoints hold them."""
        return as_json(*self.groups)


def as_json(*groups: Settings) -> dict[str, Any]:
    """Settings as JSON-able values, by name, for params.json and checkpoints."""
    plain = {entry.name: getattr(group, entry.name) for group in groups for entry in fields(group)}
    return {name: _plain(value) for name, value in plain.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    return (" ".join(map(str, value)) or "none") if isinstance(value, tuple | list) else str(value)
