"""The commands of download.py: Decathlon tasks, other data sets, published weights, and the list of all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cases.settings import Settings, setting
from data_preprocessing.planning.tasks import TASKS, Task, task_code
from data_preprocessing.published_data import published_data
from nets.weights.published_files import published_files
from runtime.fetch import FetchError, check_md5, checkpoint_format, digest, extract, fetch_with_bar, size_of, unzip

DECATHLON = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
DECATHLON_LICENCE = "CC BY-SA 4.0"
BY_HAND = "(by hand)"


@dataclass(frozen=True, kw_only=True)
class DownloadSettings(Settings):
    """What to download, and where to."""

    task: str | None = setting(None, "Decathlon task number, 01 to 10")
    dataset: str | None = setting(None, "name of another data set, see --list")
    weights: str | None = setting(None, "name of published weights, see --list")
    results: Path = setting(Path("/data"), "where the data set's folder, or pretrained_weights/, is made")
    list: bool = setting(False, "print everything that can be downloaded")
    sizes: bool = setting(False, "with --list: ask the servers how large the files are")
    mirror: str | None = setting(None, "base address instead of the publisher's")

    def faults(self) -> list[str]:  # type: ignore[valid-type]
        chosen = [self.task is not None, self.dataset is not None, self.weights is not None, self.list]
        faults = [] if chosen.count(True) == 1 else ["give one of --task, --dataset, --weights and --list"]
        return faults + ["--sizes is for --list"] * (self.sizes and not self.list)


def download(settings: DownloadSettings) -> None:
    """Bring about what the settings ask for. Raises FetchError, and OSError, where it cannot be had."""
    if settings.task is not None:
        download_task(settings.task, settings.results, settings.mirror)
    elif settings.dataset is not None:
        download_data(settings.dataset, settings.results, settings.mirror)
    elif settings.weights is not None:
        download_weights(settings.weights, settings.results, settings.mirror)
    else:
        print_list(sizes=settings.sizes)


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


def download_data(name: str, results: Path, mirror: str | None) -> None:
    """Bring ``<results>/<folder>`` about; archives are deleted once unpacked, and those unpacked are not fetched again.

    No checksums are published, but a zip holds those of its members.
    """
    table = published_data()
    if name not in table:
        raise FetchError(f"--dataset {name} is unknown; --list shows the names")
    data = table[name]
    target = results / data.folder
    if not data.files:
        raise FetchError(
            f"{name} has no link of its own: open {data.page}, download it and put it at {target} ({data.holds}; "
            f"licence: {data.licence})"
        )
    for file, url in data.files.items():
        archive, unpacked = target / file, target / f".{file}.unpacked"
        if unpacked.exists():
            print(f"{file} is already unpacked in {target}")
            continue
        if not archive.is_file():
            fetch_with_bar(f"{mirror.rstrip('/')}/{file}" if mirror else url, archive, room=2.0)
        print(f"unpacking {archive}")
        unzip(archive, target)
        unpacked.touch()
        archive.unlink()
    print(f"{target} is ready: {data.holds} (licence: {data.licence})")


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


def print_list(*, sizes: bool = False) -> None:
    """Print what ``--task``, ``--dataset`` and ``--weights`` take, where it comes from and under which licence.

    With ``sizes``, how large the files are, as their servers tell.
    """
    table = Table("flag", "file", *["size"] * sizes, "from", "licence")
    for flag, file, url, licence in _rows():
        known = [_size(url)] if sizes else []
        table.add_row(flag, file, *known, url, licence)
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def _rows() -> Iterator[tuple[str, str, str, str]]:
    """Flag, file, link (or the page on which a browser finds it) and licence."""
    for number, task in decathlon().items():
        name = task.folder
        yield f"--task {number}", f"{name}.tar", f"{DECATHLON}/{name}.tar", DECATHLON_LICENCE
    for name, data in published_data().items():
        for file, url in (data.files or {f"{data.folder}/": f"{data.page} {BY_HAND}"}).items():
            yield f"--dataset {name}", file, url, data.licence
    for name, weights in published_files().items():
        url = f"{weights.url} {BY_HAND}" if weights.by_hand else weights.url
        yield f"--weights {name}", weights.file, url, weights.licence


def _size(url: str) -> str:
    size = None if url.endswith(BY_HAND) else size_of(url)
    return "" if size is None else f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
