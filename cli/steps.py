"""Steps that are done once: ``done.json`` beside a step's result says what it was made with.

A step that is done is not repeated. One that was made with other settings or from something else is not what was
asked for, and is refused; so is one that was stopped, except that its number of epochs may change. Paths, and
settings that are declared ``kept=False`` (``--gpus``, ``--num_workers``, ...), may differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cases.case import list_cases
from cases.files import write_json
from cases.plan import PLAN_FILE
from cases.settings import shown


class StepError(ValueError):
    """A step that failed, or that was made with other settings."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A folder of results.

    Attributes:
        folder: of its results.
        settings: by the flag's name.
        sources: what it is made from, in words -> a file, or a preprocessed folder.
    """

    folder: Path
    settings: Mapping[str, Any]
    sources: Mapping[str, Path] = field(default_factory=dict)

    def result(self) -> dict[str, Any] | None:
        """What :meth:`finish` was told, None where the step is not done. Raises StepError as :func:`check`."""
        check([self])
        return self.recorded or None

    @property
    def recorded(self) -> dict[str, Any]:
        """What :meth:`finish` was told, whatever the settings; empty where the step is not done."""
        return (self._done() or {}).get("result") or {}

    @property
    def stopped(self) -> bool:
        """Whether a run that did not come to its end can go on."""
        return not self.recorded and (self.folder / "checkpoints" / "last.ckpt").is_file()

    def begin(self) -> None:
        """For a step that goes on after it was stopped: say what it is being made with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.finish()

    def finish(self, **result: Any) -> None:
        """The step is done."""
        made = {"settings": _plain(self.settings), "sources": self._digests(), "result": result}
        write_json(self.folder / "done.json", made)

    def difference(self) -> str:
        """How what was done differs from what is asked for, in words; empty where it does not, or nothing was done."""
        done = self._done()
        if done is None or not (done.get("result", True) or self.stopped):
            return ""
        if not {"settings", "sources", "result"} <= set(done):
            return "does not say what it was made with"
        now, then = _plain(self.settings), done["settings"]
        free = () if done["result"] else ("epochs",)
        differ = [name for name in now if name in then and name not in free and now[name] != then[name]]
        words = [f"with --{name} {shown(then[name])}, not {shown(now[name])}" for name in differ]
        now, then = self._digests(), done["sources"]
        words += [f"from another {name}" for name in {**then, **now} if now.get(name) != then.get(name)]
        return f"was made {', '.join(words)}" if words else ""

    def _done(self) -> dict[str, Any] | None:
        path = self.folder / "done.json"
        if not path.is_file():
            return None
        try:
            done = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            done = None
        return done if isinstance(done, dict) else {}

    def _digests(self) -> dict[str, str]:
        return {name: _digest(path) for name, path in self.sources.items()}


def check(steps: Iterable[Step]) -> None:
    """Raises StepError, in one message, where steps were done with other settings or from something else."""
    others = {step.folder: step.difference() for step in steps}
    if faults := [f"{folder} {difference}" for folder, difference in others.items() if difference]:
        remove = ", ".join(str(folder) for folder, difference in others.items() if difference)
        raise StepError(
            "; ".join(faults) + f": give the same settings or another folder of results, or delete {remove}"
        )


def decisive(groups: Iterable[Any]) -> dict[str, Any]:
    """The settings that decide a result, by name: no paths, and none that is declared ``kept=False``.

    A step's result depends on a setting that a resumed run keeps in some cases only, such as the number of epochs:
    it counts here.
    """
    return {
        entry.name: value
        for group in groups
        for entry in fields(group)
        if entry.metadata.get("kept", True) is not False and not isinstance(value := getattr(group, entry.name), Path)
    }


def _digest(path: Path) -> str:
    """Of a file's bytes, or of a preprocessed folder's plan and names of cases; empty where there is nothing."""
    text = hashlib.sha256()
    if path.is_dir():
        text.update(json.dumps(list_cases(path)).encode())
        path = path / PLAN_FILE
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        while block := file.read(2**20):
            text.update(block)
    return text.hexdigest()[:16]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return plain
