"""The BraTS challenge's folders as they are distributed (doi:10.48550/arXiv.2107.02314): a folder for each case.

``BraTS2021_00000/BraTS2021_00000_flair.nii.gz``, ``_t1``, ``_t1ce``, ``_t2`` and ``_seg``; since 2023 ``-t2f``,
``-t1n``, ``-t1c``, ``-t2w`` and ``-seg``. Value 1 is the necrotic core, 2 the oedema, and the enhancing tumour 4, since
2023 3. A case without ``seg`` is a test scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cases.volumes import case_files
from data_preprocessing.layouts.dataset import Dataset, DatasetError, Scan

CHANNELS = ("FLAIR", "T1", "T1CE", "T2")
LABELS = ("background", "necrotic core", "edema", "enhancing tumour")


@dataclass(frozen=True)
class _Naming:
    """How a year's files are named: their endings, in the order of ``CHANNELS``, and the values of ``LABELS``."""

    channels: tuple[str, ...]
    seg: str
    values: tuple[int, ...]


NAMINGS = (
    _Naming(("_flair", "_t1", "_t1ce", "_t2"), "_seg", (0, 1, 2, 4)),
    _Naming(("-t2f", "-t1n", "-t1c", "-t2w"), "-seg", ()),
)


class Brats:
    """``<case>/<case>_flair.nii.gz`` and so on; a single case's folder will do."""

    def recognises(self, path: Path) -> bool:
        """See :data:`data_preprocessing.layouts.LAYOUTS`."""
        return path.is_dir() and any(_naming(case) for case in _case_folders(path))

    def read(self, path: Path) -> Dataset:
        """A file that is missing is named where the case is checked, and costs that case alone."""
        named = {case: _naming(case) for case in _case_folders(path)}
        namings = {naming for naming in named.values() if naming}
        if len(namings) != 1:
            found = "names of two years of the challenge" if namings else "no folders such as BraTS2021_00000"
            raise DatasetError(f"{path} holds {found}; give one dataset's folder")
        naming = namings.pop()
        scans = [_scan(case, naming) for case, its in named.items() if its]
        return Dataset(
            name=path.resolve().name,
            channels=CHANNELS,
            labels=LABELS,
            label_values=naming.values,
            training=tuple(scan for scan in scans if scan.label is not None),
            test=tuple(scan for scan in scans if scan.label is None),
        )


def _case_folders(path: Path) -> list[Path]:
    """The folder itself where it is a case's, else those in it."""
    if _naming(path):
        return [path]
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _naming(folder: Path) -> _Naming | None:
    """How a case's files are named; None for a folder without any such file."""
    name = folder.resolve().name
    endings = {file.name.removeprefix(name).partition(".")[0] for file in folder.glob(f"{name}[_-]*")}
    return next((naming for naming in NAMINGS if endings & set(naming.channels)), None)


def _scan(folder: Path, naming: _Naming) -> Scan:
    case = folder.resolve().name
    files = case_files(folder)
    images = (files.get(case + ending, folder / f"{case}{ending}.nii.gz") for ending in naming.channels)
    return Scan(case=case, images=tuple(images), label=files.get(case + naming.seg))
