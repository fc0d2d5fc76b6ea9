"""What the Decathlon and nnU-Net share: ``dataset.json`` beside ``imagesTr``, ``labelsTr`` and ``imagesTs``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cases.label_values import value_faults
from cases.regions import RegionError, parse_regions, region_specs
from cases.volumes import case_files, stem
from data_preprocessing.layouts.dataset import (
    CHANNEL_SUFFIX,
    DATASET_FILE,
    Dataset,
    DatasetError,
    Scan,
    find_scans,
    repeated,
)


def read_description(folder: Path) -> dict[str, Any]:
    """The names and values of ``dataset.json``. Raises DatasetError where it does not hold any."""
    path = folder / DATASET_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        having = "has imagesTr but" if (folder / "imagesTr").is_dir() else "has"
        raise DatasetError(f"{folder} {having} no {DATASET_FILE}, which names channels and labels; add it") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{path} does not hold names and values")
    return values


def described(folder: Path, values: Mapping[str, Any], channels: Any) -> Dataset:
    """The dataset that a description tells of.

    Args:
        folder: with ``imagesTr``; with ``labelsTr`` where there are labels.
        values: of ``dataset.json``.
        channels: names of the channels by their number, as these values hold them.

    Raises:
        DatasetError: naming the file, for values that cannot be understood, and where there are no scans.
    """
    path = folder / DATASET_FILE
    if not isinstance(channels, dict) or sorted(channels) != sorted(map(str, range(len(channels)))) or not channels:
        raise DatasetError(f'{path}: "modality" (or "channel_names") must be such as {{"0": "CT"}}, found {channels}')
    classes = read_classes(path, values)
    with_labels = "labelsTr" if len(classes.labels) > 1 else None
    training = _scans(folder, values.get("training"), len(channels), "imagesTr", with_labels)
    if not training:
        raise DatasetError(f'{path} lists no "training" scans and {folder / "imagesTr"} has none')
    return Dataset(
        name=folder.resolve().name,
        channels=tuple(str(channels[str(index)]) for index in range(len(channels))),
        labels=classes.labels,
        label_values=classes.label_values,
        regions=classes.regions,
        training=tuple(training),
        test=tuple(_scans(folder, values.get("test"), len(channels), "imagesTs", None)),
    )


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Of a dataset, see :class:`Dataset`."""

    labels: tuple[str, ...]
    label_values: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()


def read_classes(path: Path, description: Mapping[str, Any]) -> Classes:
    """From "labels", {"1": "liver"} (Decathlon) or {"liver": 1} (nnU-Net v2), and "regions", {"tumour": [1, 2, 4]}.

    nnU-Net v2 gives regions as labels with lists of values, and in "regions_class_order" the value that each is written
    as; classes are then named after their values, or after a region that has a single one.

    Raises:
        DatasetError: naming the file.
    """
    labels, regions = description.get("labels", {"0": "background"}), description.get("regions") or {}
    if not isinstance(labels, Mapping):
        raise DatasetError(f'{path}: "labels" must be such as {{"0": "background", "1": "liver"}}')
    try:
        order: list[int] = []
        if any(isinstance(values, list) for values in labels.values()):
            regions = {name: values for name, values in labels.items() if values not in (0, [0])}
            order = [int(value) for value in description.get("regions_class_order") or ()]
            pairs = _classes_of_regions(regions)
        else:
            pairs = _named_values(labels)
        specs = region_specs(regions, order)
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f'{path}: "labels" or "regions" cannot be understood: {error}') from error
    values = tuple(sorted(pairs))
    if faults := value_faults(values):
        raise DatasetError(f"{path}: {'; '.join(faults)}")
    names = tuple(pairs[value] for value in values)
    classes = Classes(labels=names, label_values=() if values[-1] == len(values) - 1 else values, regions=specs)
    try:
        parse_regions(specs, values)
    except RegionError as error:
        raise DatasetError(f"{path}: {error}") from error
    return classes


def _named_values(labels: Mapping[str, Any]) -> dict[int, str]:
    try:
        pairs = {int(key): str(name) for key, name in labels.items()}
    except ValueError:
        pairs = {int(value): str(name) for name, value in labels.items()}
    if len(pairs) < len(labels):
        raise ValueError(f"every class needs a value of its own, found {dict(labels)}")
    return pairs


def _classes_of_regions(regions: Mapping[str, Any]) -> dict[int, str]:
    groups = {name: values if isinstance(values, list) else [values] for name, values in regions.items()}
    pairs = {int(value): f"class {value}" for values in groups.values() for value in values}
    return {0: "background"} | pairs | {int(values[0]): name for name, values in groups.items() if len(values) == 1}


def _scans(folder: Path, entries: Any, channels: int, images: str, labels: str | None) -> list[Scan]:
    """The listed scans, or where nothing is listed those of the folder ``images``."""
    if entries:
        scans = [_listed(folder, entry, labels is not None) for entry in entries]
    elif (folder / images).is_dir():
        scans = find_scans(folder / images, channels)
        scans = _labelled(scans, folder / labels) if labels else scans
    else:
        return []
    if twice := repeated(scans):
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


def _labelled(scans: list[Scan], folder: Path) -> list[Scan]:
    """With the label maps that no list names: each has its scan's name, without the channel's number.

    One that is missing is named as the scan's file would be, for the message of the check to come.
    """
    maps = case_files(folder) if folder.is_dir() else {}

    def missing(scan: Scan) -> Path:
        return folder / f"{scan.case}{scan.images[0].name.removeprefix(stem(scan.images[0]))}"

    return [replace(scan, label=maps.get(scan.case) or missing(scan)) for scan in scans]
