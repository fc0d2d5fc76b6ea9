"""What a check found: rows beside their goals, and one JSON file of them.

``{"gpu": name or null, "started": ..., "revision": ..., "seconds": ..., "parts": {name: {"state", "seconds", "why"}},
"rows": [{"part", "what", "value", "unit", "goal", "better", "note", "error"}]}``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cases.files import write_json

State = Literal["done", "failed", "skipped"]
MET, MISSED, FAILED = "met", "missed", "failed"
FINE, BAD, NO_GPU, UNFINISHED = 0, 1, 3, 4  # exit statuses; 2 is a fault of the command line


class ReportError(ValueError):
    """A file that is no report of a check."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: was looked at.
        value: number or words; None where an error stands instead.
        goal: of a number; None without one.
        better: which way the goal lies.
        note: how it was measured, or what it tells.
        error: last line of what went wrong.
    """

    part: str
    what: str
    value: float | str | None = None
    unit: str = ""
    goal: float | None = None
    better: Literal["higher", "lower"] = "higher"
    note: str = ""
    error: str = ""

    @property
    def verdict(self) -> str:
        """``met`` or ``missed`` beside a goal, ``failed`` with an error, else nothing."""
        if self.error:
            return FAILED
        if self.goal is None or not isinstance(self.value, int | float):
            return ""
        met = self.value >= self.goal if self.better == "higher" else self.value <= self.goal
        return MET if met else MISSED


@dataclass(kw_only=True)
class Report:
    """Rows and parts of one check, in the order in which they came.

    Attributes:
        gpu: the device's name; None without one.
        parts: state, seconds and, where one is not done, why, by name.
    """

    gpu: str | None = None
    started: str = ""
    revision: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def end(self, part: str, state: State, seconds: float = 0.0, why: str = "") -> None:
        """A part is over. A failure has a row of its own."""
        self.parts[part] = {"state": state, "seconds": round(seconds, 1), "why": why}
        if state == "failed":
            self.rows.append(Row(part=part, what="the rest of this part", error=why))

    @property
    def status(self) -> int:
        """0: all goals are met; 1: one is missed or something failed; 3: there is no GPU; 4: a part had no time."""
        if any(row.verdict in (MISSED, FAILED) for row in self.rows):
            return BAD
        if self.gpu is None:
            return NO_GPU
        return UNFINISHED if any(part["state"] == "skipped" for part in self.parts.values()) else FINE

    def summary(self) -> str:
        """The last line: how many goals are met, what failed, what had no time."""
        verdicts = [row.verdict for row in self.rows]
        met, missed = verdicts.count(MET), verdicts.count(MISSED)
        words = [f"{met} of {met + missed} goals met", f"{verdicts.count(FAILED)} failures"]
        if skipped := [name for name, part in self.parts.items() if part["state"] == "skipped"]:
            words.append(f"no time for {', '.join(skipped)}")
        if self.gpu is None:
            words.append("no GPU here: nothing above says how fast one is")
        return f"{'; '.join(words)}; {self.seconds:.0f} s"

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Report:
        """Raises ReportError that names the file and what is wrong with it."""
        try:
            values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**values, "rows": [Row(**row) for row in values["rows"]]})
        except OSError as error:
            raise ReportError(f"{path}: {error.strerror}; write it with scripts/gpu_check.sh") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ReportError(f"{path} is no report of scripts/gpu_check.sh: {error}") from error
