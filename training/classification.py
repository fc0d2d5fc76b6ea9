"""Classification of whole scans: an encoder, global average pooling and a dense head, fine-tuned on patches.

A scan's probabilities are the mean over windows that cover it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from cases.files import whole_file, write_json
from cases.plan import Plan
from cases.settings import Settings, at_least, setting
from data_loading.sources.classes import ClassTable
from inference.scan_vectors import mean_over_windows
from inference.sliding_window import SlidingWindow
from nets.build import Chosen, build_classifier
from training.learning import LearningModule
from training.optimization import OptimizationSettings

LEAST = 1e-7  # probability of a scan's class, so that its logarithm is finite
LossKind = Literal["ce", "bce"]


@dataclass(frozen=True, kw_only=True)
class ClassTableSettings(Settings):
    """Classes of scans."""

    labels_csv: Path = setting(help="CSV file case,label[,label...] with a heading line", kept=False)


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings(ClassTableSettings):
    """Classification of scans."""

    loss: Literal["default", "ce", "bce"] = setting(
        "default", "ce: cross entropy, one class a scan (the default); bce: several labels a scan"
    )
    hidden: int = setting(1024, "width of the dense layer before the last; 0: none", check=at_least(0))

    @property
    def kind(self) -> LossKind:
        """The loss without its other name."""
        return "bce" if self.loss == "bce" else "ce"


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """How well scans are classified.

    Attributes:
        accuracy: share of right decisions (of all scans and labels, where a scan has several).
        auc: area under the ROC curve; for more than two classes the mean of each against the others,
            for several labels the mean over them; nan where a class, or its absence, does not occur.
        confusion: [true][predicted] counts; for several labels one 2x2 table each.
        by_class: of each class, or label: "accuracy", the share of its scans (of all scans, for a label) decided
            rightly; "auc", against all others; "auc_low" and "auc_high", its 95 % interval; nan where undefined.
    """

    accuracy: float
    auc: float
    confusion: list[Any]
    by_class: list[dict[str, float]]


def score_classes(probabilities: np.ndarray, targets: np.ndarray, kind: LossKind) -> ClassScores:
    """Scores of scans.

    Args:
        probabilities: (scans, classes).
        targets: (scans, 1) class numbers for "ce", (scans, labels) of 0 and 1 for "bce".
    """
    n_class = probabilities.shape[1]
    if kind == "bce":
        decided = probabilities >= 0.5
        confusion = multilabel_confusion_matrix(targets.astype(int), decided.astype(int))
        right, truth = decided == targets.astype(bool), targets
    else:
        true, chosen = targets[:, 0].astype(int), probabilities.argmax(axis=1)
        confusion = confusion_matrix(true, chosen, labels=range(n_class))
        right, truth = true == chosen, np.eye(n_class)[true]
    columns = [1] if kind == "ce" and n_class == 2 else list(range(n_class))
    both = all(0 < truth[:, column].sum() < len(truth) for column in columns)
    aucs = [roc_auc_score(truth[:, c], probabilities[:, c]) for c in columns] if both else [math.nan]
    by_class = []
    for c in range(n_class):
        judged = right[:, c] if kind == "bce" else right[truth[:, c] == 1]
        low, auc, high = auc_interval(probabilities[:, c], truth[:, c] == 1)
        accuracy = float(judged.mean()) if len(judged) else math.nan
        by_class.append({"accuracy": accuracy, "auc": auc, "auc_low": low, "auc_high": high})
    return ClassScores(
        accuracy=float(right.mean()), auc=float(np.mean(aucs)), confusion=confusion.tolist(), by_class=by_class
    )


def auc_interval(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Area under the ROC curve amid its 95 % interval (DeLong et al. 1988, doi:10.2307/2531595): low, area, high.

    Args:
        scores: (scans,).
        truth: bool, (scans,).

    Returns:
        nan for an area without scans on both sides, and for an interval with fewer than two on either.
    """
    inside, outside = scores[truth], scores[~truth]
    if not len(inside) or not len(outside):
        return math.nan, math.nan, math.nan
    above = _share_below(inside, outside)  # of each scan of the class: how many of the others it is above
    below = 1 - _share_below(outside, inside)
    area = float(above.mean())
    if min(len(inside), len(outside)) < 2:
        return math.nan, area, math.nan
    half = 1.96 * math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    return max(0.0, area - half), area, min(1.0, area + half)


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each value, the share of the others that lie below it; an equal one counts half."""
    others = np.sort(others)
    return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))


def decide_classes(probabilities: Sequence[float], names: Sequence[str], kind: LossKind) -> str:
    """The most probable class, or all labels of at least 0.5, by name."""
    if kind == "ce":
        return names[int(np.argmax(probabilities))]
    return " ".join(name for name, value in zip(names, probabilities, strict=True) if value >= 0.5)


def probabilities_of(logits: Tensor, kind: LossKind) -> Tensor:
    """(N, classes) float32, of the network's answer to windows."""
    return logits.float().sigmoid() if kind == "bce" else logits.float().softmax(1)


class ClassificationModule(LearningModule):
    """Trains on patches, each with its scan's classes, and evaluates whole scans.

    Args:
        plan: of the cases.
        network_settings: of the encoder to build.
        table: classes of the scans.
        settings: the loss, and the width of the head.
        windows: how a scan is cut.
        optimization: optimiser and schedule.
        run_settings: the command's settings as JSON-able values; kept in the checkpoint.
    """

    learns = "classification"

    def __init__(
        self,
        plan: Plan,
        network_settings: Chosen,
        table: ClassTable,
        *,
        settings: ClassificationSettings,
        windows: SlidingWindow,
        optimization: OptimizationSettings | None = None,
        run_settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            plan,
            build_classifier(plan, network_settings, len(table.names), hidden=settings.hidden or None),
            network_settings,
            n_outputs=len(table.names),
            optimization=optimization,
            run_settings=run_settings,
        )
        self.table, self.kind, self.windows = table, settings.kind, windows
        self.probabilities: dict[str, np.ndarray] = {}
        """Of this rank's validation scans; after the evaluation of all of them."""
        self.scores: ClassScores | None = None

    @property
    def best_name(self) -> str:
        return "classification-{epoch}-{loss:.4f}"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar, of (N, classes) logits and (N, 1) class numbers or (N, labels) of 0 and 1."""
        if self.kind == "bce":
            return F.binary_cross_entropy_with_logits(logits, target)
        return F.cross_entropy(logits, target[:, 0].long())

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(self(batch["image"]).float(), batch["target"])

    def on_validation_epoch_start(self) -> None:
        self.probabilities = {}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not batch:  # this rank has no case, but must take part in the sums
            return

        def answer(windows: Tensor) -> Tensor:
            return probabilities_of(self.network(windows), self.kind)

        mean = mean_over_windows(batch["image"][0], answer, self.windows, self.device)
        self.probabilities[batch["case"]] = mean.cpu().numpy()

    def on_validation_epoch_end(self) -> None:
        """Gather the scans of all ranks, and score them together."""
        cases: list[str] = self.trainer.datamodule.val_cases  # type: ignore[attr-defined]
        rows = torch.zeros(len(cases), len(self.table.names), dtype=torch.float64)
        for case, row in self.probabilities.items():
            rows[cases.index(case)] = torch.from_numpy(row)
        rows = self.trainer.strategy.reduce(rows.to(self.device), reduce_op="sum").cpu()
        self.probabilities = dict(zip(cases, rows.numpy(), strict=True))
        targets = np.stack([self.table.targets[case] for case in cases])
        self.scores = score_classes(rows.numpy(), targets, self.kind)
        logits = rows.logit(LEAST) if self.kind == "bce" else rows.clamp(min=LEAST).log()
        loss = float(self.loss(logits, torch.from_numpy(targets).double()))
        record = {"Accuracy": 100 * self.scores.accuracy, "AUC": self.scores.auc, "Val Loss": loss}
        self.conclude(loss, record, "Min Val Loss")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["classes"] = list(self.table.names)


def write_scores(folder: Path, module: ClassificationModule) -> Sequence[Path]:
    """``classification.json`` (accuracy, AUC, confusion matrix, scores by class) and ``classification.csv``."""
    assert module.scores is not None  # after an evaluation
    names = module.table.names
    summary = {
        "classes": names,
        "scans": len(module.probabilities),
        "accuracy": module.scores.accuracy,
        "auc": None if math.isnan(module.scores.auc) else module.scores.auc,
        "confusion": module.scores.confusion,
        "by_class": {
            name: {what: None if math.isnan(value) else round(value, 6) for what, value in scores.items()}
            for name, scores in zip(names, module.scores.by_class, strict=True)
        },
    }
    written = (folder / "classification.json", folder / "classification.csv")
    write_json(written[0], summary)
    with whole_file(written[1]) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["case", *(f"p({name})" for name in names), "target"])
        for case, row in module.probabilities.items():
            target = module.table.targets[case]
            true = names[int(target[0])] if module.kind == "ce" else " ".join(f"{value:.0f}" for value in target)
            table.writerow([case, *(f"{value:.6f}" for value in row), true])
    return written
