"""Compare predictions with true labels: Dice, IoU, HD95 and surface Dice as a table, metrics.json and pictures.

A class that is in neither map of a case is left out of its means (null in metrics.json); one that is
in one map alone has Dice, IoU and surface Dice 0 and the scan's diagonal as HD95.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from rich.console import Console
from rich.table import Table

from data_preprocessing.cases import list_cases, open_array, read_info
from data_preprocessing.dataset import DATASET_FILE, read_dataset
from data_preprocessing.plan import PLAN_FILE, Plan
from data_preprocessing.regions import brats_regions
from data_preprocessing.volume import Geometry, VolumeError, is_volume, read_label, read_volume, stem
from settings import EvaluateSettings, parse, run_command
from training.pictures import draw_overlay
from training.scores import METRICS, score_case, summary


class EvaluationError(ValueError):
    """Predictions and labels that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case's files; ``label`` is a file, or a folder of preprocessed cases that holds it."""

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
    """Run the command; 1 where some case could not be compared."""
    settings = parse(EvaluateSettings, argv, __doc__ or "")
    results = settings.results or settings.preds
    pairs, faults = find_pairs(settings.preds, settings.lbls)
    names = class_names(settings.lbls)
    n_class = len(names) or 1 + max(joblib.Parallel(settings.n_jobs)(map(joblib.delayed(_highest), pairs)), default=0)
    names = names or ("background", *(f"class {value}" for value in range(1, n_class)))
    work = (joblib.delayed(score_pair)(pair, names, settings.tolerance_mm) for pair in pairs)
    outcomes: list[Scored] = joblib.Parallel(settings.n_jobs)(work)
    scored = [outcome for outcome in outcomes if outcome.scores is not None]
    faults += [outcome.fault for outcome in outcomes if outcome.fault is not None]
    if scored and n_class > 1:
        results.mkdir(parents=True, exist_ok=True)
        report = as_report(scored, names, settings.tolerance_mm, faults)
        temporary = results / "metrics.json.tmp"
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(results / "metrics.json")
        Console().print(as_table(report))
        draw_pictures(scored, settings.images, results)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not scored:
        raise EvaluationError(f"none of the cases in {settings.preds} could be compared with {settings.lbls}")
    return 1 if faults else 0
