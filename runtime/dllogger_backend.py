"""DLLogger's lines, by the ``dllogger`` package where it is installed and by a small backend where not.

A record is one line, ``DLLL`` and a JSON object, in a file that programs read; the same record, shorter,
goes to the terminal. Format of DLLogger 1.1.0, https://github.com/NVIDIA/dllogger.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cases.files import write_json, write_text
from cases.settings import Settings, setting

Step = int | str | tuple[int, ...]
EVERYWHERE, FILE_ONLY = 0, 1  # DLLogger's DEFAULT and VERBOSE


@dataclass(frozen=True, kw_only=True)
class ResultsSettings(Settings):
    """Where results go."""

    results: Path = setting(Path("/results"), "where results go", kept=False)


@dataclass(frozen=True, kw_only=True)
class LogSettings(ResultsSettings):
    """Where results and the log go."""

    logname: str | None = setting(None, "name of the DLLogger file in --results; None: logs.json", kept=False)


class _Logger(Protocol):
    def log(self, step: Step, data: dict[str, Any], verbosity: int) -> None: ...
    def metadata(self, metric: str, metadata: dict[str, Any]) -> None: ...
    def flush(self) -> None: ...


class RunLogger:
    """The log of one run. Ranks other than 0 hold one that writes nothing.

    Args:
        path: file of ``DLLL`` lines; its folder is made.
        rank: global rank of this process.
        append: continue the file of a resumed run instead of replacing it.
    """

    def __init__(self, path: Path, *, rank: int = 0, append: bool = False) -> None:
        self._logger: _Logger | None = None
        self._path = path
        if rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            if append:
                _end_last_line(path)
            self._logger = _make_logger(path, append)

    def log(self, step: Step, data: Mapping[str, Any], verbosity: int = EVERYWHERE) -> None:
        """Write one record.

        Args:
            step: "PARAMETER" for the run's settings, an epoch, (epoch, step), or () for the whole run.
            data: names and values; scalars of NumPy and PyTorch are taken, paths become text.
            verbosity: EVERYWHERE, or FILE_ONLY to spare the terminal.
        """
        if self._logger is not None:
            self._logger.log(step=step, data={name: _plain(value) for name, value in data.items()}, verbosity=verbosity)
            self._logger.flush()  # a run that is killed keeps what it logged

    def metadata(self, metric: str, metadata: Mapping[str, Any]) -> None:
        """Say a metric's ``unit`` and ``format`` (such as ``:.3f``), which the terminal's lines use."""
        if self._logger is not None:
            self._logger.metadata(metric, dict(metadata))

    def drop_after(self, epoch: int) -> None:
        """Drop the records of later epochs, which a run resumed from the end of ``epoch`` is about to repeat.

        A run may have been killed between an epoch's record and its checkpoint, or be resumed from its best epoch.
        """
        if self._logger is None:
            return
        self._logger.flush()
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _epoch_of(line) <= epoch]
        if len(kept) < len(lines):
            write_text(self._path, "".join(kept))
            self._logger = _make_logger(self._path, append=True)

    def flush(self) -> None:
        """Bring every line to the disk."""
        if self._logger is not None:
            self._logger.flush()


def open_log(settings: LogSettings, parameters: dict[str, Any], *, rank: int, append: bool = False) -> RunLogger:
    """The log of a run, with its parameters, which ``params.json`` holds too."""
    logger = RunLogger(settings.results / (settings.logname or "logs.json"), rank=rank, append=append)
    if rank == 0:
        write_json(settings.results / "params.json", parameters)
        logger.log(step="PARAMETER", data=parameters, verbosity=FILE_ONLY)
    return logger


class PlainLogger:
    """Writes what DLLogger with a JSON and a terminal backend would write."""

    def __init__(self, path: Path, append: bool) -> None:
        self._file = path.open("a" if append else "w", encoding="utf-8")
        self._start = datetime.now(UTC)
        self._metadata: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def log(self, step: Step, data: dict[str, Any], verbosity: int) -> None:
        now = self._write(type="LOG", step=step, data=data)
        if verbosity <= EVERYWHERE:
            metrics = " ".join(self._metric(name, value) for name, value in data.items())
            print(f"DLL {now.astimezone().replace(tzinfo=None)} - {step} {metrics}")

    def metadata(self, metric: str, metadata: dict[str, Any]) -> None:
        self._metadata[metric].update(metadata)
        self._write(type="METADATA", metric=metric, metadata=metadata)

    def flush(self) -> None:
        self._file.flush()

    def _write(self, **record: Any) -> datetime:
        now = datetime.now(UTC)
        elapsed = (now - self._start).total_seconds()
        times = {"timestamp": str(now.timestamp()), "datetime": str(now), "elapsedtime": str(elapsed)}
        self._file.write(f"DLLL {json.dumps(times | record)}\n")
        return now

    def _metric(self, name: str, value: Any) -> str:
        known = self._metadata[name]
        text = value if value is None else f"{{{known.get('format', '')}}}".format(value)
        return f"{name} : {text} {known.get('unit', '')}"


def _make_logger(path: Path, append: bool) -> _Logger:
    try:
        import dllogger
    except ImportError:
        return PlainLogger(path, append)
    backends = [
        dllogger.JSONStreamBackend(dllogger.Verbosity.VERBOSE, str(path), append=append),
        dllogger.StdOutBackend(dllogger.Verbosity.DEFAULT),
    ]
    logger: _Logger = dllogger.Logger(backends=backends)
    return logger


def _end_last_line(path: Path) -> None:
    """A run killed in the middle of a line must not spoil the next line too."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as stream:
            stream.write("\n")


def _epoch_of(line: str) -> int:
    """The epoch whose record a line is; -1 for any other line, a broken one too."""
    try:
        step = json.loads(line.removeprefix("DLLL ")).get("step")
    except ValueError:
        return -1
    return step if isinstance(step, int) else -1


def _plain(value: Any) -> Any:
    """A value that JSON knows: scalars of NumPy and PyTorch lose their type, tuples and paths theirs."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value
