"""Compare predictions with true labels: Dice, IoU, HD95 and surface Dice as a table, metrics.json and pictures.

A class that is in neither map of a case is left out of its means (null in metrics.json); one that is
in one map alone has Dice, IoU and surface Dice 0, and the scan's diagonal as HD95.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cases.case import list_cases, open_array, read_info
from cases.plan import PLAN_FILE, Plan
from cases.regions import REGIONS_FILE, read_regions
from cases.volumes import Geometry, VolumeError, is_volume, read_label, read_volume, stem
from data_preprocessing.layouts import DATASET_FILE, read_dataset
from inference.pictures import draw_overlay
from inference.restore import decide
from inference.scores import METRICS, score_case, summary
from settings import EvaluateSettings, parse, run_command


class EvaluationError(ValueError):
    """Predictions and labels that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case's files; ``label`` is an image file, or the folder of preprocessed cases that holds it."""

    case: str
    prediction: Path
    label: Path


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How one case ended: its scores (classes, metrics), or the fault in words."""

    pair: Pair
    scores: np.ndarray | None = None
    fault: str | None = None

    @property
    def dice(self) -> float:
        """Mean over the classes that are there; nan where none is."""
        assert self.scores is not None
        return float(summary(self.scores[:, 0])[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where some prediction could not be compared."""
    settings = parse(EvaluateSettings, argv, __doc__ or "")
    pairs, faults = find_pairs(settings.preds, settings.lbls)
    names = class_names(settings.lbls)
    parallel = joblib.Parallel(settings.n_jobs)
    outcomes: list[Scored] = parallel(joblib.delayed(score_pair)(pair, names, settings.tolerance_mm) for pair in pairs)
    faults += [outcome.fault for outcome in outcomes if outcome.fault is not None]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    scored = [outcome for outcome in outcomes if outcome.scores is not None]
    if not scored:
        raise EvaluationError(f"none of the predictions in {settings.preds} could be compared with {settings.lbls}")

    report = as_report(scored, names, settings.tolerance_mm, faults)
    Console().print(as_table(report))
    results = settings.results or settings.preds
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "metrics.json", report)
    draw_pictures(scored, settings.images, results)
    return 1 if faults else 0


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


def class_names(lbls: Path) -> tuple[str, ...]:
    """Names by value from dataset.json in the labels' folder or beside it, or from plan.json; () where neither is."""
    if (lbls / PLAN_FILE).is_file():
        return Plan.load(lbls).labels
    for folder in (lbls, lbls.resolve().parent):
        if (folder / DATASET_FILE).is_file():
            return read_dataset(folder).labels
    return ()


def score_pair(pair: Pair, names: Sequence[str], tolerance_mm: float) -> Scored:
    """Read and compare one case; without names, classes are all the values that occur in it."""
    try:
        label, geometry = read_truth(pair)
        prediction = read_prediction(pair.prediction, geometry, pair.label, len(names))
        highest = int(max(prediction.max(), label.max()))
        if names and highest >= len(names):
            odd = pair.prediction if prediction.max() >= len(names) else pair.label
            raise EvaluationError(f"{odd} holds class {highest}; the dataset's classes are 0 to {len(names) - 1}")
        n_class = len(names) or highest + 1
        scores = score_case(prediction, label, geometry.spacing_mm, n_class=n_class, tolerance_mm=tolerance_mm)
    except (ValueError, OSError) as error:
        return Scored(pair=pair, fault=str(error))
    return Scored(pair=pair, scores=scores)


def read_truth(pair: Pair) -> tuple[np.ndarray, Geometry]:
    """The true label map on the scan's grid, (D, H, W); a preprocessed one is put back into its crop box."""
    if not pair.label.is_dir():
        label, geometry = read_label(pair.label)
        return label[0], geometry
    info = read_info(pair.label, pair.case)
    whole = np.zeros(info.geometry.shape_dhw, np.uint8)
    box = tuple(slice(low, high) for low, high in zip(*info.crop_box, strict=True))
    whole[box] = open_array(pair.label, pair.case, "orig_y")[0]
    return whole, info.geometry


def read_prediction(path: Path, geometry: Geometry, label: Path, n_class: int = 0) -> np.ndarray:
    """Class values (D, H, W) on the label's grid; probabilities (C, D, H, W) in .npy become class values too.

    Channels are classes, of which the likeliest wins, or the regions that a ``regions.json`` beside them names.
    ``n_class`` is the number of classes that the dataset has, or 0 where nothing tells it.

    Raises:
        EvaluationError, VolumeError: naming the file, for another grid and anything unreadable.
    """
    if path.suffix != ".npy":
        prediction, other = read_label(path)
        if fault := geometry.mismatch(other):
            raise EvaluationError(f"{path} does not lie on the grid of {label}: {fault}; predict or resample it there")
        return prediction[0]
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EvaluationError(f"{path} is not an array, or a damaged one ({error})") from error
    if values.shape[-3:] != geometry.shape_dhw or values.ndim not in (3, 4):
        raise EvaluationError(
            f"{path} has shape {values.shape}, the label {label} {geometry.shape_dhw}; "
            "it must be (D, H, W) class values or (C, D, H, W) probabilities on the scan's grid"
        )
    if values.ndim == 4 and len(values) > 1:
        return decide_planes(path, values, n_class)
    classes = np.asarray(values).reshape(geometry.shape_dhw)
    if not np.array_equal(classes, whole := classes.astype(np.uint8)):
        raise EvaluationError(f"{path}: a single channel must hold class values, whole numbers from 0 to 255")
    return whole


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


def as_report(scored: Sequence[Scored], names: Sequence[str], tolerance_mm: float, faults: list[str]) -> dict[str, Any]:
    """What metrics.json holds: every case, the summary of every class, and of the cases' mean over classes."""
    n_class = len(names) or 1 + max(len(checked(outcome.scores)) for outcome in scored)
    names = names or ("background", *(f"class {value}" for value in range(1, n_class)))
    scores = np.full((len(scored), n_class - 1, len(METRICS)), np.nan)
    for row, outcome in zip(scores, scored, strict=True):
        row[: len(checked(outcome.scores))] = outcome.scores  # classes above a case's highest are absent from it
    over_classes = np.stack([summary(case)[0] for case in scores])
    return {
        "tolerance_mm": tolerance_mm,
        "mean": _summary_json(over_classes),
        "classes": {name: _summary_json(scores[:, index]) for index, name in enumerate(names[1:])},
        "cases": {
            outcome.pair.case: {
                name: dict(zip(METRICS, map(_number, case[index]), strict=True)) for index, name in enumerate(names[1:])
            }
            for outcome, case in zip(scored, scores, strict=True)
        },
        "faults": faults,
    }


def _summary_json(scores: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Scores (cases, metrics) to mean, std and number of cases, by metric."""
    columns = zip(*summary(scores), strict=True)
    return {
        metric: {"mean": _number(mean), "std": _number(std), "cases": int(count)}
        for metric, (mean, std, count) in zip(METRICS, columns, strict=True)
    }


def _number(value: float) -> float | None:
    """A JSON number; null for nan."""
    return None if math.isnan(value) else round(float(value), 6)


def checked(scores: np.ndarray | None) -> np.ndarray:
    assert scores is not None
    return scores


def as_table(report: dict[str, Any]) -> Table:
    """Mean and standard deviation by class, and the number of cases behind them."""
    table = Table(title=f"{len(report['cases'])} cases, mean ± standard deviation")
    table.add_column("class")
    tolerance = f"surface Dice {report['tolerance_mm']:g} mm"
    for heading in ("Dice", "IoU", "HD95 mm", tolerance, "cases"):
        table.add_column(heading, justify="right")
    for name, row in [*report["classes"].items(), ("mean", report["mean"])]:
        cells = ["-" if v["mean"] is None else f"{v['mean']:.4f} ± {v['std']:.4f}" for v in row.values()]
        table.add_row(name, *cells, str(row["dice"]["cases"]), end_section=name != "mean")
    return table


def write_json(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def draw_pictures(scored: Sequence[Scored], images: Path | None, results: Path) -> None:
    """best.png, median.png and worst.png by Dice, over the scan where ``images`` has it, else over the label."""
    order = sorted((outcome for outcome in scored if not math.isnan(outcome.dice)), key=lambda outcome: outcome.dice)
    if not order:
        return
    for rank, outcome in {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}.items():
        pair = outcome.pair
        label, geometry = read_truth(pair)
        prediction = read_prediction(pair.prediction, geometry, pair.label)
        image = None if images is None else background(images, pair.case, geometry)
        title = f"{rank}: {pair.case}, Dice {outcome.dice:.4f}"
        draw_overlay(results / f"{rank}.png", title, prediction, label, image, geometry.spacing_mm)


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


if __name__ == "__main__":
    run_command(main)
