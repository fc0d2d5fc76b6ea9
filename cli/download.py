"""The commands of download.py: Decathlon tasks, published weights, and the list of both."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cases.settings import Settings, setting
from data_preprocessing.planning.tasks import TASKS, Task, task_code
from nets.weights.published_files import published_files
from runtime.fetch import FetchError, check_md5, checkpoint_format, digest, extract, fetch_with_bar

DECATHLON = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
DECATHLON_LICENCE = "CC BY-SA 4.0"


@dataclass(frozen=True, kw_only=True)
class DownloadSettings(Settings):
    """What to download, and where to."""

    task: str | None = setting(None, "Decathlon task number, 01 to 10")
    weights: str | None = setting(None, "name of published weights, see --list")
    results: Path = setting(Path("/data"), "where the task's folder, or pretrained_weights/, is made")
    list: bool = setting(False, "print everything that can be downloaded")
    mirror: str | None = setting(None, "base address instead of the publisher's")

    def faults(self) -> list[str]:  # type: ignore[valid-type]
        chosen = [self.task is not None, self.weights is not None, self.list]
        return [] if chosen.count(True) == 1 else ["give one of --task, --weights and --list"]


def download(settings: DownloadSettings) -> None:
    """Bring about what the settings ask for. Raises FetchError, and OSError, where it cannot be had."""
    if settings.task is not None:
        download_task(settings.task, settings.results, settings.mirror)
    elif settings.weights is not None:
        download_weights(settings.weights, settings.results, settings.mirror)
    else:
        print_list()


def decathlon() -> dict[str, Task]:
    """The tasks that can be downloaded, by number."""
    return {number: task for number, task in TASKS.items() if task.md5 is not None}


def download_task(number: str, results: Path, mirror: str | None) -> None:
    """Bring ``<results>/<Task folder>`` about; its tar is deleted once unpacked."""
    known = decathlon()
    task = known.get(task_code(number))
    if task is None:
        raise FetchError(f"--task {number}: the Decathlon has tasks {', '.join(known)}")
    name = task.folder
    if (results / name).is_dir():
        print(f"{results / name} is already there")
        return
    archive = results / f"{name}.tar"
    if not archive.is_file():
        fetch_with_bar(f"{(mirror or DECATHLON).rstrip('/')}/{name}.tar", archive, room=2.0)
    print(f"checking {archive}")
    check_md5(archive, str(task.md5))
    extract(archive, results, name)
    archive.unlink()
    print(f"{results / name} is ready (licence: {DECATHLON_LICENCE})")


def download_weights(name: str, results: Path, mirror: str | None) -> None:
    """Bring ``<results>/pretrained_weights/<file>`` about and print its SHA-256, for none is published."""
    table = published_files()
    if name not in table:
        raise FetchError(f"--weights {name} is unknown; --list shows the names")
    weights = table[name]
    target = results / "pretrained_weights" / weights.file
    if target.is_file():
        print(f"{target} is already there")
    elif weights.by_hand and mirror is None:
        raise FetchError(
            f"{name} lies behind a link for browsers: open {weights.url}, download {weights.file}, "
            f"put it at {target} and run this command again to check it (licence: {weights.licence})"
        )
    else:
        fetch_with_bar(f"{mirror.rstrip('/')}/{weights.file}" if mirror else weights.url, target)
    kind = checkpoint_format(target)
    print(f"{target}: {kind}, {target.stat().st_size} bytes, SHA-256 {digest(target, 'sha256')}")
    print(f"licence: {weights.licence}")


def print_list() -> None:
    """Print what ``--task`` and ``--weights`` take, where it comes from and under which licence."""
    table = Table("flag", "file", "from", "licence")
    for number, task in decathlon().items():
        name = task.folder
        table.add_row(f"--task {number}", f"{name}.tar", f"{DECATHLON}/{name}.tar", DECATHLON_LICENCE)
    for name, weights in published_files().items():
        by_hand = " (by hand)" if weights.by_hand else ""
        table.add_row(f"--weights {name}", weights.file, weights.url + by_hand, weights.licence)
    Console(width=None if sys.stdout.isatty() else 240).print(table)
