"""Compare predictions with true labels: scores of every case, their summary, and pictures.

A class that is in neither map of a case is left out of its means (null in metrics.json); one that
is in one map alone has Dice, IoU and surface Dice 0, and the scan's diagonal as HD95.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from rich.console import Console
from rich.table import Table

from cases.files import write_json
from cases.settings import Settings, at_least, setting
from inference.pairs import EvaluationError, Pair, background, dataset_classes, find_pairs, read_prediction, read_truth
from inference.pictures import draw_overlay
from inference.scores import METRICS, score_case, summary


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """What to compare with what"""

    preds: Path = setting(help="folder of predictions: NIfTI label maps, or npy")
    lbls: Path = setting(help="folder of true labels")
    results: Path | None = setting(None, "where metrics.json and the pictures go; None: --preds")
    images: Path | None = setting(None, "folder of the scans, as the pictures' background")
    tolerance_mm: float = setting(1.0, "surface Dice counts surfaces this close as equal", check=at_least(0))
    n_jobs: int = setting(-1, "processes; -1: one a core")


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


def evaluate(settings: EvaluateSettings) -> int:
    """Print the table, write metrics.json and the pictures; 1 where some prediction could not be compared.

    Raises:
        EvaluationError: where none could.
    """
    pairs, faults = find_pairs(settings.preds, settings.lbls)
    names, values = dataset_classes(settings.lbls)
    parallel = joblib.Parallel(settings.n_jobs)
    outcomes: list[Scored] = parallel(joblib.delayed(score_pair)(pair, values, settings.tolerance_mm) for pair in pairs)
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
    draw_pictures(scored, values, settings.images, results)
    return 1 if faults else 0


def score_pair(pair: Pair, values: Sequence[int], tolerance_mm: float) -> Scored:
    """Read and compare one case; without the dataset's label values, classes are all that occur in it."""
    try:
        label, geometry = read_truth(pair, values)
        prediction = read_prediction(pair.prediction, geometry, pair.label, values)
        n_class = len(values) or max(int(max(prediction.max(), label.max())), 1) + 1  # two empty maps tell of no class
        scores = score_case(prediction, label, geometry.spacing_mm, n_class=n_class, tolerance_mm=tolerance_mm)
    except (ValueError, OSError) as error:
        return Scored(pair=pair, fault=str(error))
    return Scored(pair=pair, scores=scores)


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


def draw_pictures(scored: Sequence[Scored], values: Sequence[int], images: Path | None, results: Path) -> None:
    """best.png, median.png and worst.png by Dice, over the scan where ``images`` has it, else over the label."""
    order = sorted((outcome for outcome in scored if not math.isnan(outcome.dice)), key=lambda outcome: outcome.dice)
    if not order:
        return
    for rank, outcome in {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}.items():
        pair = outcome.pair
        label, geometry = read_truth(pair, values)
        prediction = read_prediction(pair.prediction, geometry, pair.label, values)
        image = None if images is None else background(images, pair.case, geometry)
        title = f"{rank}: {pair.case}, Dice {outcome.dice:.4f}"
        draw_overlay(results / f"{rank}.png", title, prediction, label, image, geometry.spacing_mm)
