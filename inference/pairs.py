"""Predictions and true labels of the same scans: found in two folders, and read onto one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cases.case import list_cases, open_array, read_info
from cases.label_values import to_classes, unknown_values
from cases.plan import PLAN_FILE, Plan
from cases.regions import REGIONS_FILE, read_regions
from cases.volumes import Geometry, VolumeError, is_volume, read_label, read_volume, stem
from data_preprocessing.layouts import DATASET_FILE, read_dataset
from inference.restore import decide


class EvaluationError(ValueError):
    """Predictions and labels that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case's files; ``label`` is an image file, or the folder of preprocessed cases that holds it."""

    case: str
    prediction: Path
    label: Path


def find_pairs(preds: Path, lbls: Path) -> tuple[list[Pair], list[str]]:
    """Predictions with their labels, and a fault for each prediction that has none.

    Labels without a prediction are no fault: a fold predicts a part of the dataset. Where a case has
    a label map and probabilities, the label map is taken.

    Raises:
        EvaluationError: where a folder is missing or holds nothing to compare.
    """
    for flag, folder in (("--preds", preds), ("--lbls", lbls)):
        if not folder.is_dir():
            raise EvaluationError(f"{flag} {folder} is not a folder")
    predictions = {path.stem: path for path in sorted(preds.glob("*.npy"))}
    predictions |= {stem(path): path for path in sorted(preds.iterdir()) if is_volume(path)}
    if not predictions:
        below = sorted(f"'{path.parent}'" for path in preds.glob("predictions_*/*") if is_volume(path))
        hint = f"; there are some in {below[0]}" if below else ""
        raise EvaluationError(f"--preds {preds} holds no predictions: neither image files nor .npy{hint}")
    labels = {case: lbls for case in list_cases(lbls) if (lbls / f"{case}_orig_y.npy").is_file()}
    labels |= {stem(path): path for path in sorted(lbls.iterdir()) if is_volume(path)}
    if not labels:
        raise EvaluationError(f"--lbls {lbls} holds no labels: neither image files nor preprocessed cases with labels")
    faults = [f"{predictions[case]} has no label in {lbls}" for case in predictions if case not in labels]
    common = sorted(set(predictions) & set(labels))
    return [Pair(case=case, prediction=predictions[case], label=labels[case]) for case in common], faults


def dataset_classes(lbls: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and label values by class, from dataset.json in the labels' folder or beside it, or from plan.json.

    Both are () where neither file is there.
    """
    if (lbls / PLAN_FILE).is_file():
        plan = Plan.load(lbls)
        return plan.labels, plan.values
    for folder in (lbls, lbls.resolve().parent):
        if (folder / DATASET_FILE).is_file():
            dataset = read_dataset(folder)
            return dataset.labels, dataset.values
    return (), ()


def as_classes(path: Path, label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """uint8 classes of a label map; without ``values``, what it holds. Raises EvaluationError for other values."""
    if not values and label.dtype != np.uint8:
        raise EvaluationError(f"{path} holds values up to {label.max()}: lay the {DATASET_FILE} beside --lbls")
    if values and (unknown := unknown_values(label, values)):
        known = f"0 to {values[-1]}" if len(values) == values[-1] + 1 else ", ".join(map(str, values))
        raise EvaluationError(f"{path} holds class {unknown[-1]}; the dataset's classes are {known}")
    return to_classes(label, values) if values else label


def read_truth(pair: Pair, values: Sequence[int] = ()) -> tuple[np.ndarray, Geometry]:
    """The true classes, (D, H, W) on the scan's grid, of label files with these values, or of a preprocessed case."""
    if not pair.label.is_dir():
        label, geometry = read_label(pair.label)
        return as_classes(pair.label, label[0], values), geometry
    info = read_info(pair.label, pair.case)
    whole = np.zeros(info.geometry.shape_dhw, np.uint8)
    box = tuple(slice(low, high) for low, high in zip(*info.crop_box, strict=True))
    whole[box] = open_array(pair.label, pair.case, "orig_y")[0]
    return whole, info.geometry


def read_prediction(path: Path, geometry: Geometry, label: Path, values: Sequence[int] = ()) -> np.ndarray:
    """Class values (D, H, W) on the label's grid; probabilities (C, D, H, W) in .npy become class values too.

    Channels are classes, of which the likeliest wins, or the regions that a ``regions.json`` beside them names.
    ``values`` are the dataset's label values by class, or () where nothing tells them.

    Raises:
        EvaluationError, VolumeError: naming the file, for another grid and anything unreadable.
    """
    if path.suffix != ".npy":
        prediction, other = read_label(path)
        if fault := geometry.mismatch(other):
            raise EvaluationError(f"{path} does not lie on the grid of {label}: {fault}; predict or resample it there")
        return as_classes(path, prediction[0], values)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EvaluationError(f"{path} is not an array, or a damaged one ({error})") from error
    if array.shape[-3:] != geometry.shape_dhw or array.ndim not in (3, 4):
        raise EvaluationError(
            f"{path} has shape {array.shape}, the label {label} {geometry.shape_dhw}; "
            "it must be (D, H, W) class values or (C, D, H, W) probabilities on the scan's grid"
        )
    if array.ndim == 4 and len(array) > 1:
        return decide_planes(path, array, len(values))
    classes = np.asarray(array).reshape(geometry.shape_dhw)
    if not np.array_equal(classes, whole := classes.astype(np.uint8)):
        raise EvaluationError(f"{path}: a single channel must hold class values, whole numbers from 0 to 255")
    return as_classes(path, whole, values)


def decide_planes(path: Path, probabilities_cdhw: np.ndarray, n_class: int) -> np.ndarray:
    """Class values (D, H, W), plane by plane, of probabilities as ``read_prediction`` takes them."""
    regions, channels = read_regions(path.parent), len(probabilities_cdhw)
    wanted, what = (len(regions.names), "regions") if regions else (n_class or channels, "classes")
    if channels != wanted:
        raise EvaluationError(f"{path} has {channels} channels for {wanted} {what}; give the label map instead")
    classes = np.empty(probabilities_cdhw.shape[1:], np.uint8)
    for index, target in enumerate(classes):
        plane = np.asarray(probabilities_cdhw[:, index], np.float32)
        if regions is None and not np.allclose(plane.sum(axis=0), 1, atol=0.01):
            raise EvaluationError(
                f"{path}: its channels do not sum to 1, so they are no probabilities of classes; give the label map "
                f"instead, or, where they are regions (--brats), the {REGIONS_FILE} that predict wrote beside them"
            )
        target[...] = decide(torch.from_numpy(plane), regions).numpy()
    return classes


def background(images: Path, case: str, geometry: Geometry) -> np.ndarray:
    """The first channel of a case's scan. Raises VolumeError where it is missing or lies on another grid."""
    files = [path for path in sorted(images.iterdir()) if is_volume(path)] if images.is_dir() else []
    found = [path for path in files if stem(path) in (case, f"{case}_0000")]
    if not found:
        raise VolumeError(f"--images {images} has no scan named {case}")
    image, other = read_volume(found[:1])
    if fault := geometry.mismatch(other):
        raise VolumeError(f"{found[0]} does not lie on the label's grid: {fault}")
    return image[0]
