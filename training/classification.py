"""Classification of whole scans: an encoder, global average pooling and a dense head, fine-tuned on patches.

A scan's probabilities are the mean over windows that cover it.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
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
from inference.sliding_window import SlidingWindow, axis_starts
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
    """

    accuracy: float
    auc: float
    confusion: list[Any]


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
    return ClassScores(accuracy=float(right.mean()), auc=float(np.mean(aucs)), confusion=confusion.tolist())


def windows_of_scan(image_cdhw: Tensor, windows: SlidingWindow) -> Iterator[Tensor]:
    """Batches (N, C, *patch) of windows that cover a scan; one smaller than a window is padded with zeros."""
    sides = windows.window_dhw
    missing = [max(0, side - length) for side, length in zip(sides, image_cdhw.shape[1:], strict=True)]
    padding = [part for lack in reversed(missing) for part in (lack // 2, lack - lack // 2)]
    image = F.pad(image_cdhw, padding)
    starts = [axis_starts(n, side, windows.overlap) for n, side in zip(image.shape[1:], sides, strict=True)]
    corners = list(itertools.product(*starts))
    for first in range(0, len(corners), windows.batch_size):
        boxes = []
        for corner in corners[first : first + windows.batch_size]:
            place = tuple(slice(a, a + side) for a, side in zip(corner, sides, strict=True))
            boxes.append(image[(slice(None), *place)])
        batch = torch.stack(boxes)
        yield batch[:, :, 0] if len(windows.patch_size) == 2 else batch


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
        logits = torch.cat([self.network(x).float() for x in windows_of_scan(batch["image"][0], self.windows)])
        probabilities = logits.sigmoid() if self.kind == "bce" else logits.softmax(1)
        self.probabilities[batch["case"]] = probabilities.mean(0).double().cpu().numpy()

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
    """``classification.json`` (accuracy, AUC, confusion matrix) and ``classification.csv``, a line a scan."""
    assert module.scores is not None  # after an evaluation
    names = module.table.names
    summary = {
        "classes": names,
        "scans": len(module.probabilities),
        "accuracy": module.scores.accuracy,
        "auc": None if math.isnan(module.scores.auc) else module.scores.auc,
        "confusion": module.scores.confusion,
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
