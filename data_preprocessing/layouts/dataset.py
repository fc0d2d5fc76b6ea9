"""A folder of scans, in any of the usual layouts, to a list of scans; and what makes a scan unusable.

Read are the Decathlon's layout and nnU-Net's two versions of it (``dataset.json`` beside ``imagesTr``,
``labelsTr``, ``imagesTs``; channels in one 4D file or in ``_0000``, ``_0001``, ... files), MedicalNet's
lists of "image label" lines, and any folder of scans without labels.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cases.volumes import Geometry, VolumeError, is_volume, read_label, read_volume, stem, turn_axes

DATASET_FILE = "dataset.json"
UNLABELLED = ("background",)
LABEL_SUFFIX = re.compile(r"[_.-](label|labels|seg|segmentation|mask|gt)$", re.IGNORECASE)
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
        labels: class names by value, the background first; only it where the scans have none.
        training: scans to learn from.
        test: scans without labels.
    """

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    training: tuple[Scan, ...]
    test: tuple[Scan, ...]


def read_dataset(folder: Path) -> Dataset:
    """Read a dataset's folder, or its image list.

    Raises:
        DatasetError: naming what is missing or cannot be understood, and the remedy.
    """
    folder = Path(folder)
    if folder.is_file():
        return _from_list(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; --data and --task, or --dataset, must name the dataset's")
    if (folder / DATASET_FILE).is_file():
        return _from_json(folder)
    if (folder / "imagesTr").is_dir():
        raise DatasetError(f"{folder} has imagesTr but no {DATASET_FILE}, which names its channels and labels; add it")
    scans = find_scans(folder)
    if not scans:
        raise DatasetError(f"{folder} holds no scans: neither {DATASET_FILE} nor image files nor DICOM folders")
    _refuse_label_maps(folder, scans)
    return Dataset(name=folder.resolve().name, channels=(), labels=UNLABELLED, training=tuple(scans), test=())


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


def find_scans(folder: Path, channels: int | None = None) -> list[Scan]:
    """Every image file or DICOM folder directly in ``folder``.

    Files ``case_0000``, ``case_0001``, ... are the channels of one scan where ``channels`` is above 1.
    Where it is None, they are if every case has the same numbers from 0000 on; a folder of one such
    row is as many scans.

    Raises:
        DatasetError: for two files that would be the same case.
    """
    files = [path for path in sorted(folder.iterdir()) if is_volume(path) or _is_dicom(path)]
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


def _is_dicom(path: Path) -> bool:
    return path.is_dir() and any(file.suffix.lower() in (".dcm", ".ima") for file in path.iterdir())


def _from_json(folder: Path) -> Dataset:
    path = folder / DATASET_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{path} does not hold names and values")
    channels = values.get("channel_names", values.get("modality"))  # nnU-Net v2, or the Decathlon
    if not isinstance(channels, dict) or sorted(channels) != sorted(map(str, range(len(channels)))) or not channels:
        raise DatasetError(f'{path}: "modality" (or "channel_names") must be such as {{"0": "CT"}}, found {channels}')
    labels = _label_names(path, values.get("labels", {"0": "background"}))
    training = _scans(
        folder, values.get("training"), len(channels), "imagesTr", "labelsTr" if len(labels) > 1 else None
    )
    if not training:
        raise DatasetError(f'{path} lists no "training" scans and {folder / "imagesTr"} has none')
    return Dataset(
        name=folder.resolve().name,
        channels=tuple(str(channels[str(index)]) for index in range(len(channels))),
        labels=labels,
        training=tuple(training),
        test=tuple(_scans(folder, values.get("test"), len(channels), "imagesTs", None)),
    )


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
        if len(names) > 2 or (names and not is_volume(Path(names[0]))):
            raise DatasetError(f'{path}, line {number}: "{line}" is not such as "images/1.nii.gz labels/1.nii.gz"')
        if names:
            image, *label = (path.parent / name for name in names)
            scans.append(Scan(case=stem(image), images=(image,), label=label[0] if label else None))
    if not scans:
        raise DatasetError(f"{path} lists no scans")
    if twice := _repeated(scans):
        raise DatasetError(f"{path}: images {', '.join(twice)} are listed more than once; give each a name of its own")
    return scans


def _from_list(path: Path) -> Dataset:
    """As many classes as the largest listed label tells; named after its folder too, as most lists are train.txt."""
    scans = read_img_list(path)
    largest = 0
    for scan in scans:
        try:
            largest = max(largest, int(read_label(scan.label)[0].max())) if scan.label else largest
        except VolumeError:  # told when the cases are checked, together with all other faults
            continue
    names = (UNLABELLED[0], *(f"class {value}" for value in range(1, largest + 1)))
    return Dataset(
        name=f"{path.resolve().parent.name}_{path.stem}", channels=(), labels=names, training=tuple(scans), test=()
    )


def _repeated(scans: Sequence[Scan]) -> list[str]:
    return [case for case, count in Counter(scan.case for scan in scans).items() if count > 1]


def _label_names(path: Path, labels: Any) -> tuple[str, ...]:
    """Names by value from {"1": "liver"} (Decathlon) or {"liver": 1} (nnU-Net v2)."""
    try:
        pairs = {int(k): str(v) for k, v in labels.items()}
    except ValueError:
        try:
            pairs = {int(v): str(k) for k, v in labels.items()}
        except (TypeError, ValueError) as error:
            raise DatasetError(f'{path}: "labels" must give every class one value, found {labels}') from error
    except AttributeError as error:
        raise DatasetError(f'{path}: "labels" must be such as {{"0": "background", "1": "liver"}}') from error
    if sorted(pairs) != list(range(len(pairs))) or not pairs:
        raise DatasetError(f"{path}: label values {sorted(pairs)} have gaps; number the classes 0, 1, 2, ...")
    if len(pairs) > 256:
        raise DatasetError(f"{path}: {len(pairs)} classes; at most 256 can be stored")
    return tuple(pairs[value] for value in range(len(pairs)))


def _scans(folder: Path, entries: Any, channels: int, images: str, labels: str | None) -> list[Scan]:
    """The listed scans, or where nothing is listed those of the folder ``images``."""
    if entries:
        scans = [_listed(folder, entry, labels is not None) for entry in entries]
    elif (folder / images).is_dir():
        scans = find_scans(folder / images, channels)
        scans = [_with_label(scan, folder / labels) for scan in scans] if labels else scans
    else:
        return []
    if twice := _repeated(scans):
        raise DatasetError(f"{folder / DATASET_FILE}: cases {', '.join(twice)} are listed more than once")
    return scans


def _listed(folder: Path, entry: Any, labelled: bool) -> Scan:
    """A scan of dataset.json: a path, several, or {"image": ..., "label": ...}."""
    fields = entry if isinstance(entry, Mapping) else {"image": entry}
    images = fields.get("image")
    names: list[Any] = images if isinstance(images, list) else [images]
    label = str(fields["label"]) if labelled and fields.get("label") else None
    if not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(f'{folder / DATASET_FILE}: {entry} is not such as {{"image": "a.nii.gz", "label": ...}}')
    paths = [folder / name for name in names]
    case = stem(paths[0])
    if len(paths) > 1:
        case = stem(folder / label) if label else CHANNEL_SUFFIX.sub("", case)
    elif not paths[0].exists():  # nnU-Net v1 lists case.nii.gz for case_0000.nii.gz, ...
        ending = paths[0].name.removeprefix(case)
        paths = sorted(paths[0].parent.glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}")) or paths
    return Scan(case=case, images=tuple(paths), label=folder / label if label else None)


def _with_label(scan: Scan, labels: Path) -> Scan:
    """With the label map that no list names: the scan's name, without the channel's number."""
    ending = scan.images[0].name.removeprefix(stem(scan.images[0]))
    return replace(scan, label=labels / f"{scan.case}{ending}")


def read_scan(scan: Scan, *, depth_first: bool = False) -> tuple[np.ndarray, Geometry, np.ndarray | None]:
    """Image (C, D, H, W) float32, its geometry, and its label uint8 (1, D, H, W) if any.

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
    image_cdhw: np.ndarray, label: np.ndarray | None, *, channels: int, n_class: int, empty: bool = False
) -> Sequence[str]:
    """What makes these arrays unusable, in words with remedies.

    Args:
        image_cdhw: of a scan.
        label: uint8, (1, D, H, W), or None.
        channels: that the dataset has.
        n_class: classes that the dataset has, with the background.
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
    return faults if label is None else [*faults, *label_faults(label, image_cdhw.shape[1:], n_class)]


def label_faults(label: np.ndarray, shape_dhw: Sequence[int], n_class: int) -> Sequence[str]:
    """What makes a label map (uint8, (1, D, H, W)) unusable for an image of this shape, in words with remedies."""
    faults = []
    if label.shape[1:] != tuple(shape_dhw):
        faults.append(f"label {label.shape[1:]} and image {tuple(shape_dhw)} differ in shape")
    if int(label.max()) >= n_class:
        values = [int(value) for value in np.unique(label) if value >= n_class]
        faults.append(
            f"label values {values} are not among the dataset's 0 to {n_class - 1}; relabel, "
            f'or add them to "labels" in {DATASET_FILE}'
        )
    return faults
