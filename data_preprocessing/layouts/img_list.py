"""MedicalNet's lists: a text file with ``image label``, or ``image`` alone, on each line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cases.label_values import MOST_CLASSES, value_faults
from cases.volumes import VolumeError, is_volume, read_label, stem
from data_preprocessing.layouts.dataset import UNLABELLED, Dataset, DatasetError, Scan, repeated


class ImgList:
    """Any file. There are as many classes as the largest listed label tells; above 255, as values occur."""

    def recognises(self, path: Path) -> bool:
        """See :data:`data_preprocessing.layouts.LAYOUTS`."""
        return path.is_file()

    def read(self, path: Path) -> Dataset:
        """Named after its folder too, as most lists are called train.txt."""
        scans = read_img_list(path)
        found: set[int] = {0}
        for scan in scans:
            try:
                found |= set(np.unique(read_label(scan.label)[0]).tolist()) if scan.label else set()
            except VolumeError:  # told when the cases are checked, together with all other faults
                continue
        values = tuple(sorted(found)) if max(found) >= MOST_CLASSES else ()
        names = (UNLABELLED[0], *(f"class {value}" for value in (values or range(max(found) + 1))[1:]))
        if faults := value_faults(values or range(max(found) + 1)):
            raise DatasetError(f"{path}: its label maps hold {'; '.join(faults)}")
        name = f"{path.resolve().parent.name}_{path.stem}"
        return Dataset(name=name, channels=(), labels=names, label_values=values, training=tuple(scans), test=())


def read_img_list(path: Path) -> list[Scan]:
    """Scans of a list as MedicalNet has them: ``image label`` a line, or ``image`` alone.

    Paths are relative to the list's own folder. Empty lines are passed over.

    Raises:
        DatasetError: naming the list and the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{path} is no image list ("image label" a line): {error}') from error
    scans = []
    for number, line in enumerate(lines, start=1):
        names = line.split()
        if len(names) > 2 or (names and not is_volume(path.parent / names[0])):
            raise DatasetError(f'{path}, line {number}: "{line}" is not such as "images/1.nii.gz labels/1.nii.gz"')
        if names:
            image, *label = (path.parent / name for name in names)
            scans.append(Scan(case=stem(image), images=(image,), label=label[0] if label else None))
    if not scans:
        raise DatasetError(f"{path} lists no scans")
    if twice := repeated(scans):
        raise DatasetError(f"{path}: images {', '.join(twice)} are listed more than once; give each a name of its own")
    return scans
