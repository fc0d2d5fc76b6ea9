"""Tables of variants by name: losses, encoders, effects, layouts, formats, and whatever else there is several of.

A user's own variant needs no table: ``module:object`` or ``path/to/file.py:object`` names it wherever a name of the
table would stand. The folder of such a file is put on Python's search path, so that worker processes find it too.
Whatever is named this way is run: names out of a checkpoint are looked up in the tables alone.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from cases.settings import Settings, SettingsError

T = TypeVar("T")


class RegistryError(SettingsError):
    """A name that is in no table, or an own variant that cannot be used."""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Variants of one kind.

    An entry may have an attribute ``settings``: the subclass of :class:`cases.settings.Settings` that it reads, or a
    tuple of several.

    Attributes:
        kind: what they are, in the singular, for messages: "loss".
        entries: by name; a string "module:object" is imported when it is asked for.
        needs: attributes that every entry has, so that an own variant without them is refused at once.
    """

    kind: str
    entries: Mapping[str, T | str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def get(self, name: str) -> T:
        """The entry of this name, or the user's own object. Raises RegistryError with the one thing to mend."""
        if name in self.entries:
            entry = self.entries[name]
            return load_object(entry) if isinstance(entry, str) else entry
        if not is_own(name):
            close = difflib.get_close_matches(name, list(self), n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise RegistryError(
                f"{self.kind} {name!r} is none of {', '.join(self)}, nor an own one as module:object or "
                f"file.py:object{hint}"
            )
        found: T = load_object(name)
        if missing := [attribute for attribute in self.needs if not hasattr(found, attribute)]:
            raise RegistryError(f"{name} is no {self.kind}: it has no {', '.join(missing)}; see docs/extending.md")
        return found

    def make(self, name: str) -> Any:
        """What the entry makes when it is called without arguments. Raises RegistryError where it cannot be."""
        entry: Any = self.get(name)
        try:
            return entry()
        except Exception as error:  # an own class may fail in any way
            raise RegistryError(
                f"{name} is no {self.kind}: it is not made without arguments ({type(error).__name__}: {error})"
            ) from error

    def stored(self, name: str, own: Sequence[str] = ()) -> str:
        """The name to look up for one that a file holds, such as a plan: no file makes code run by itself.

        Args:
            name: as :func:`stored_name` writes it.
            own: what the command line names; the one of the same name is meant.

        Raises:
            RegistryError: for a user's own object that the command line does not name.
        """
        meant = next((given for given in own if stored_name(given) == name), name)
        if meant == name and name not in self and is_own(name) and name not in own:
            raise RegistryError(
                f"{self.kind} {name} is a user's own, which a file alone does not start: give --{self.kind} with the "
                f"file that defines it, such as --{self.kind} path/to/{name.replace(':', '.py:', 1)}"
            )
        return meant

    def settings_of(self, name: str) -> tuple[type[Settings], ...]:
        """The groups of settings that an entry reads, mostly one; none where it reads none."""
        found: Any = getattr(self.get(name), "settings", ())
        kinds = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(kind, type) and issubclass(kind, Settings) for kind in kinds):
            raise RegistryError(f"{name}: its settings are no subclass of cases.settings.Settings")
        return kinds


def is_own(name: str) -> bool:
    """Whether a name is that of a user's own object, ``module:object`` or ``file.py:object``."""
    return ":" in name


def absolute(name: str) -> str:
    """The same name from any working directory, as other processes need it."""
    where, _, attribute = name.rpartition(":")
    return f"{Path(where).resolve()}:{attribute}" if where.endswith(".py") else name


def stored_name(name: str) -> str:
    """The name that files hold: ``folder/file.py:object`` becomes ``file:object``, others stay."""
    where, _, attribute = name.rpartition(":")
    return f"{Path(where).stem}:{attribute}" if where.endswith(".py") else name


def load_object(name: str) -> Any:
    """The object that ``module:object`` or ``file.py:object`` names. Raises RegistryError saying what to mend."""
    where, _, attribute = name.rpartition(":")
    if not where or not attribute.isidentifier():
        raise RegistryError(f"{name} is neither module:object nor file.py:object")
    module = _load_file(name, Path(where)) if where.endswith(".py") else _import(name, where)
    if not hasattr(module, attribute):
        defined = [key for key in vars(module) if not key.startswith("_")]
        close = difflib.get_close_matches(attribute, defined, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise RegistryError(f"{name}: {where} defines no {attribute}{hint}")
    return getattr(module, attribute)


def _load_file(name: str, path: Path) -> ModuleType:
    """A file as the module of its own name, from a folder on the search path: so workers unpickle what it defines."""
    path = path.resolve()
    if not path.is_file():
        raise RegistryError(f"{name}: {path} does not exist")
    if not path.stem.isidentifier():
        raise RegistryError(f"{name}: {path.name} is no name of a Python module; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = _import(name, path.stem)
    if getattr(module, "__file__", None) is None or Path(module.__file__ or "").resolve() != path:
        raise RegistryError(f"{name}: another module is called {path.stem} already; rename {path.name}")
    return module


def _import(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # an own module may fail in any way while it is imported
        raise RegistryError(f"{name}: {module} cannot be imported ({type(error).__name__}: {error})") from error
