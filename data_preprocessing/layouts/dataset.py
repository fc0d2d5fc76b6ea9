"""What every layout is read to: scans, what is known of them together, and what makes one unusable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cases.label_values import unknown_values
from cases.volumes import Geometry, VolumeError, is_volume, read_label, read_volume, stem, turn_axes

DATASET_FILE = "dataset.json"
UNLABELLED = ("background",)
CHANNEL_SUFFIX = re.compile(r"_\d{4}$")  # nnU-Net: case_0000.nii.gz, case_0001.nii.gz, ...


class DatasetError(ValueError):
    """A dataset that cannot be read as a whole."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Files of one case."""

    case: str
    images: tuple[Path, ...]
    label: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What ``dataset.json`` tells, or the folder itself where there is none.

    Attributes:
        name: of the dataset.
        channels: names such as ("CT",) or ("FLAIR", "T1w"); empty where nothing tells them.
        labels: class names, the background first; only it where the scans have none.
        training: scans to learn from.
        test: scans without labels.
        label_values, regions: see :class:`cases.plan.Plan`.
    """

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    training: tuple[Scan, ...]
    test: tuple[Scan, ...]
    label_values: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[int, ...]:
        """The label files' values by class."""
        return self.label_values or tuple(range(len(self.labels)))


def repeated(scans: Sequence[Scan]) -> list[str]:
    """Cases that are there more than once."""
    return [case for case, count in Counter(scan.case for scan in scans).items() if count > 1]


def find_scans(folder: Path, channels: int | None = None) -> list[Scan]:
    """Every image file or DICOM folder directly in ``folder``.

    Files ``case_0000``, ``case_0001``, ... are the channels of one scan where ``channels`` is above 1.
    Where it is None, they are if every case has the same numbers from 0000 on; a folder of one such
    row is as many scans.

    Raises:
        DatasetError: for two files that would be the same case.
    """
    files = [path for path in sorted(folder.iterdir()) if is_volume(path)]
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(CHANNEL_SUFFIX.sub("", stem(path)), []).append(path)
    endings = {tuple(stem(path).removeprefix(case) for path in paths) for case, paths in groups.items()}
    many = len(next(iter(endings), ()))
    regular = endings == {tuple(f"_{index:04d}" for index in range(many))}
    together = channels > 1 if channels is not None else regular and len(groups) > 1
    if not together and not (regular and many == 1):
        groups = {}
        for path in files:
            groups.setdefault(stem(path), []).append(path)
    for case, paths in groups.items():
        if len(paths) > 1 and not all(CHANNEL_SUFFIX.search(stem(path)) for path in paths):
            raise DatasetError(f"{', '.join(path.name for path in paths)} in {folder} would all be case {case}; rename")
    return [Scan(case=case, images=tuple(paths)) for case, paths in groups.items()]


def read_scan(scan: Scan, *, depth_first: bool = False) -> tuple[np.ndarray, Geometry, np.ndarray | None]:
    """Image (C, D, H, W) float32, its geometry, and its label (1, D, H, W), of the file's values, if any.

    Args:
        scan: its files.
        depth_first: D is the file's first index, as in MedicalNet's files, instead of its last.

    Raises:
        VolumeError: naming the file, also where image and label lie on two grids.
    """
    image, geometry = read_volume(scan.images)
    label = None
    if scan.label is not None:
        label, other = read_label(scan.label)
        if fault := geometry.mismatch(other):
            raise VolumeError(f"{scan.images[0]} and {scan.label} do not match: {fault}; resample or redraw the label")
    if not depth_first:
        return image, geometry, label
    return turn_axes(image), geometry.turned(), None if label is None else turn_axes(label)


def array_faults(
    image_cdhw: np.ndarray, label: np.ndarray | None, *, channels: int, values: Sequence[int], empty: bool = False
) -> Sequence[str]:
    """What makes these arrays unusable, in words with remedies.

    Args:
        image_cdhw: of a scan.
        label: of the file's values, (1, D, H, W), or None.
        channels: that the dataset has.
        values: of the dataset's label files, by class.
        empty: whether an image without any non-zero voxel is a fault.
    """
    faults = []
    if image_cdhw.ndim != 4 or len(image_cdhw) != channels:
        faults.append(f"{len(image_cdhw)} channels, shape {image_cdhw.shape}, where the dataset has {channels}")
    bad = image_cdhw.size - int(np.isfinite(image_cdhw).sum())
    if bad:
        faults.append(f"{bad} voxels are NaN or infinite; replace them, or leave the case out")
    elif empty and not image_cdhw.any():
        faults.append("the image is zero everywhere; leave the case out")
    return faults if label is None else [*faults, *label_faults(label, image_cdhw.shape[1:], values)]


def label_faults(label: np.ndarray, shape_dhw: Sequence[int], values: Sequence[int]) -> Sequence[str]:
    """What makes a label map, (1, D, H, W) of the file's values, unusable for an image of this shape, with remedies."""
    faults = []
    if label.shape[1:] != tuple(shape_dhw):
        faults.append(f"label {label.shape[1:]} and image {tuple(shape_dhw)} differ in shape")
    if unknown := unknown_values(label, values):
        known = f"0 to {values[-1]}" if len(values) == values[-1] + 1 else ", ".join(map(str, values))
        faults.append(
            f"label values {unknown} are not among the dataset's {known}; relabel, "
            f'or add them to "labels" in {DATASET_FILE}'
        )
    return faults
