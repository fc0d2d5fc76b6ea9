"""A folder of scans without labels: image files, DICOM folders, or both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cases.volumes import stem
from data_preprocessing.layouts.dataset import (
    CHANNEL_SUFFIX,
    DATASET_FILE,
    UNLABELLED,
    Dataset,
    DatasetError,
    Scan,
    find_scans,
)

LABEL_SUFFIX = re.compile(r"[_.-](label|labels|seg|segmentation|mask|gt)$", re.IGNORECASE)


class Folder:
    """Any folder, asked last."""

    def recognises(self, path: Path) -> bool:
        """See :data:`data_preprocessing.layouts.LAYOUTS`."""
        return path.is_dir()

    def read(self, path: Path) -> Dataset:
        """Channels and modality are found out later, from the scans."""
        scans = find_scans(path)
        if not scans:
            raise DatasetError(f"{path} holds no scans: neither {DATASET_FILE} nor image files nor DICOM folders")
        _refuse_label_maps(path, scans)
        return Dataset(name=path.resolve().name, channels=(), labels=UNLABELLED, training=tuple(scans), test=())


def _refuse_label_maps(folder: Path, scans: Sequence[Scan]) -> None:
    """Raises DatasetError where a scan is named as another's label map: ``x_label.nii.gz`` beside ``x.nii.gz``."""
    stems = {CHANNEL_SUFFIX.sub("", stem(path)) for scan in scans for path in scan.images}
    maps = sorted(
        path.name
        for scan in scans
        for path in scan.images
        if LABEL_SUFFIX.search(stem(path)) and LABEL_SUFFIX.sub("", stem(path)) in stems
    )
    if maps:
        raise DatasetError(
            f"{folder} has no {DATASET_FILE}, so all its files are scans without labels, but {len(maps)} are named as "
            f"label maps of others: {', '.join(maps[:3])}{', ...' if len(maps) > 3 else ''}. Give --dataset "
            f'a list of "image label" lines, or move scans to imagesTr, label maps to labelsTr, and add {DATASET_FILE} '
            "(to learn without labels, move the label maps elsewhere)"
        )
