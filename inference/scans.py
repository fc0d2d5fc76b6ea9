"""Scans that somebody wants predicted: a file, a DICOM folder, or a folder of either."""

from __future__ import annotations

from pathlib import Path

from cases.volumes import VolumeError, is_volume, known_formats, stem
from data_preprocessing.layouts.brats import Brats
from data_preprocessing.layouts.dataset import CHANNEL_SUFFIX, Scan, find_scans

DICOM_SUFFIXES = (".dcm", ".ima", "")


def input_scans(source: Path, *, channels: int = 1) -> list[Scan]:
    """List the scans at a path, sorted by name.

    Args:
        source: an image file, a DICOM folder, a folder that holds image files and DICOM folders, or BraTS' folders.
        channels: of a scan. Above 1, files that end with _0000, _0001, ... are channels of one scan,
            and one of them stands for all.

    Raises:
        VolumeError: where nothing is found.
        DatasetError: where two files would be one case.
    """
    source = Path(source)
    known = f"(known: {known_formats()})"
    if not source.exists():
        raise VolumeError(f"{source} does not exist: --input is an image file or a folder of them")
    if source.is_file():
        if not is_volume(source):
            raise VolumeError(f"{source} is no image file {known}")
        if channels > 1 and CHANNEL_SUFFIX.search(stem(source)):
            return [scan for scan in find_scans(source.parent, channels) if source in scan.images]
        return [Scan(case=stem(source), images=(source,))]
    if (layout := Brats()).recognises(source):
        dataset = layout.read(source)
        return sorted((*dataset.training, *dataset.test), key=lambda scan: scan.case)
    if found := find_scans(source, channels):
        return sorted(found, key=lambda scan: scan.case)
    if any(path.is_file() and path.suffix.lower() in DICOM_SUFFIXES for path in source.iterdir()):
        return [Scan(case=source.resolve().name, images=(source,))]
    raise VolumeError(f"{source} holds no scans {known}")
