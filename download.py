"""Download Decathlon tasks and published weights. ``--list`` shows them all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from runtime.fetch import FetchError, check_md5, checkpoint_format, digest, extract, fetch
from settings import DownloadSettings, parse

DECATHLON = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
DECATHLON_LICENCE = "CC BY-SA 4.0"
TASKS = {  # number: folder, MD5 of its tar
    "01": ("Task01_BrainTumour", "240a19d752f0d9e9101544901065d872"),
    "02": ("Task02_Heart", "06ee59366e1e5124267b774dbd654057"),
    "03": ("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    "04": ("Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b"),
    "05": ("Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db"),
    "06": ("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc"),
    "07": ("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4"),
    "08": ("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c"),
    "09": ("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e"),
    "10": ("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0"),
}


@dataclass(frozen=True)
class PublishedWeights:
    """A published checkpoint. Where ``by_hand``, ``url`` is the page on which a browser finds it."""

    file: str
    url: str
    licence: str
    by_hand: bool = False


def known_weights() -> dict[str, PublishedWeights]:
    """Every checkpoint by the name that ``--weights`` takes."""
    arizona = "Arizona State University: non-commercial research only, patent pending"
    genesis_page = "https://github.com/MrGiovanni/ModelsGenesis/blob/master/competition/README.md"
    table = {}
    for depth in (10, 18, 34, 50, 101, 152, 200):
        page = f"https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet{depth}/resolve/main"
        for suffix in ("", "_23dataset") if depth <= 50 else ("",):
            file = f"resnet_{depth}{suffix}.pth"
            table[f"medicalnet_resnet{depth}{suffix}"] = PublishedWeights(file, f"{page}/{file}", "MIT")
    file = "semantic_genesis_chest_ct.pt"
    zenodo = f"https://zenodo.org/record/4625297/files/{file}?download=1"
    table["semantic_genesis"] = PublishedWeights(file, zenodo, arizona)
    for name, file in (
        ("models_genesis", "Genesis_Chest_CT.pt"),
        ("models_genesis_keras", "Genesis_Chest_CT.h5"),
        ("genesis_nnunet", "genesis_nnunet_luna16_006.model"),
    ):
        table[name] = PublishedWeights(file, genesis_page, arizona, by_hand=True)
    return table


def download_task(number: str, results: Path, mirror: str | None) -> None:
    """Bring ``<results>/<Task folder>`` about; its tar is deleted once unpacked."""
    if number.zfill(2) not in TASKS:
        raise FetchError(f"--task {number}: the Decathlon has tasks {', '.join(TASKS)}")
    name, md5 = TASKS[number.zfill(2)]
    if (results / name).is_dir():
        print(f"{results / name} is already there")
        return
    archive = results / f"{name}.tar"
    if not archive.is_file():
        _fetch_with_bar(f"{(mirror or DECATHLON).rstrip('/')}/{name}.tar", archive, room=2.0)
    print(f"checking {archive}")
    check_md5(archive, md5)
    extract(archive, results, name)
    archive.unlink()
    print(f"{results / name} is ready (licence: {DECATHLON_LICENCE})")


def download_weights(name: str, results: Path, mirror: str | None) -> None:
    """Bring ``<results>/pretrained_weights/<file>`` about and print its SHA-256, for none is published."""
    table = known_weights()
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
        _fetch_with_bar(f"{mirror.rstrip('/')}/{weights.file}" if mirror else weights.url, target)
    kind = checkpoint_format(target)
    print(f"{target}: {kind}, {target.stat().st_size} bytes, SHA-256 {digest(target, 'sha256')}")
    print(f"licence: {weights.licence}")


def print_list() -> None:
    """Print what ``--task`` and ``--weights`` take, where it comes from and under which licence."""
    table = Table("flag", "file", "from", "licence")
    for number, (name, _) in TASKS.items():
        table.add_row(f"--task {number}", f"{name}.tar", f"{DECATHLON}/{name}.tar", DECATHLON_LICENCE)
    for name, weights in known_weights().items():
        by_hand = " (by hand)" if weights.by_hand else ""
        table.add_row(f"--weights {name}", weights.file, weights.url + by_hand, weights.licence)
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def _fetch_with_bar(url: str, target: Path, room: float = 1.0) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        line = bar.add_task(target.name, total=None)
        fetch(url, target, on_progress=lambda done, total: bar.update(line, completed=done, total=total), room=room)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 where what was asked for is in place."""
    settings = parse(DownloadSettings, argv, "Download Decathlon tasks and published weights.")
    try:
        if settings.list:
            print_list()
        elif settings.task is not None:
            download_task(settings.task, settings.results, settings.mirror)
        elif settings.weights is not None:
            download_weights(settings.weights, settings.results, settings.mirror)
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
