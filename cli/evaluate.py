"""``--exec_mode evaluate``: Dice of a segmentation, or scores of a classification, on cases not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.callbacks import RichProgressBar

from cases.folder import FolderSettings
from cases.label_values import to_classes, unknown_values
from cases.settings import Given, Settings, setting
from cases.splits import FoldSettings, fold_cases
from cases.volumes import FormatSettings, read_label, use_formats
from cli import trained
from cli.building import plain_trainer
from cli.labelling import Labelling, LabelMaps, predictions_name
from cli.mode import Mode
from data_loading.module import VolumeDataModule
from data_preprocessing.layouts.dataset import DatasetError
from data_preprocessing.layouts.img_list import read_img_list
from data_preprocessing.recipes import OwnSettings
from inference.predict import Predicted
from inference.sliding_window import WindowSettings
from inference.tta import TTASettings
from runtime.devices import DeviceSettings, global_rank, gpu_of
from runtime.dllogger_backend import LogSettings, open_log
from runtime.hardware import Hardware
from training.classification import ClassTableSettings, write_scores
from training.fitting import LimitSettings
from training.losses import LossSettings
from training.segmentation import ValidationSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """Evaluation."""

    img_list: Path | None = setting(
        None, 'scans and labels, "image label" a line, instead of a preprocessed folder', kept=False
    )
    save_preds: bool = setting(
        False, "write label maps and probabilities too", flags=("--save_probabilities",), kept=False
    )


def segmentation(given: Given) -> int:
    """Dice of a checkpoint on the fold's validation cases, or on the scans of --img_list."""
    chosen = given[EvaluationSettings]
    if chosen.img_list is not None:
        return listed(given, chosen.img_list)
    folder = given[FolderSettings].folder()
    checkpoint = trained.own_checkpoint(given)
    checkpoint.check_plan(given[FolderSettings].plan(), folder)
    cases = validation_cases(given, folder)
    module = trained.trained_module(given, checkpoint)
    trainer = plain_trainer(given, [RichProgressBar()])
    if trainer.is_global_zero and gpu_of(trainer) is not None:
        last = checkpoint.network.network.layout == "NDHWC"
        device, precision = trainer.strategy.root_device, str(trainer.precision)
        print(Hardware(device=device, precision=precision, channels_last=last), flush=True)
    data = VolumeDataModule(folder, checkpoint.plan, cases, gpu_of(trainer))
    trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        open_log(given[LogSettings], given.as_json(), rank=global_rank(), append=True).log(
            step=(), data=module.evaluation()
        )
        print(module.said)
    if not chosen.save_preds:
        return 0
    target = given[LogSettings].results / predictions_name(given)
    return Labelling(given, checkpoint, target, keep_probabilities=True).write_stored(folder, cases)[0]


def validation_cases(given: Given, folder: Path) -> list[str]:
    """The cases of the fold that training did not see."""
    return fold_cases(folder, given[FoldSettings])[1]


def listed(given: Given, img_list: Path) -> int:
    """Dice by class over the scans of a list, each on its own grid, printed and logged; label maps are written too.

    Returns 1 if a scan failed, after all others.

    Raises:
        DatasetError: for a list that cannot be read, or lines without a label.
    """
    use_formats(given[FormatSettings].formats)
    source = trained.any_checkpoint(given)
    scans = read_img_list(img_list)
    if without := [scan.case for scan in scans if scan.label is None]:
        raise DatasetError(f"{img_list} names no label for {', '.join(without)}: --exec_mode predict needs none")
    labels = {scan.case: scan.label for scan in scans}

    def pair(case: Predicted) -> LabelMaps:
        maps = (read_label(path)[0] for path in (case.path, labels[case.case]) if path)
        predicted, label = (torch.from_numpy(known_classes(case.case, found, source.plan.values)) for found in maps)
        return predicted, label

    target = given[LogSettings].results / predictions_name(given)
    labelling = Labelling(given, source, target, keep_probabilities=given[EvaluationSettings].save_preds)
    failed, record = labelling.write_scans(scans, pair)
    if labelling.fabric.is_global_zero and record:
        open_log(given[LogSettings], given.as_json(), rank=0, append=True).log(step=(), data=record)
    return failed


def known_classes(case: str, label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Classes of a label map. Raises DatasetError where it holds values that the network does not know."""
    if unknown := unknown_values(label, values):
        raise DatasetError(f"{case}: class values {unknown} are not among the network's {len(values)} classes")
    return to_classes(label, values)


def classification(given: Given) -> int:
    """Accuracy, AUC and confusion matrix of a checkpoint on the fold's validation scans."""
    folder = given[FolderSettings].folder()
    checkpoint = trained.own_checkpoint(given, "classification")
    checkpoint.check_plan(given[FolderSettings].plan(), folder)
    module = trained.trained_class_module(given, checkpoint)
    cases = [case for case in validation_cases(given, folder) if case in module.table.targets]
    trainer = plain_trainer(given, [RichProgressBar()])
    trainer.validate(module, datamodule=VolumeDataModule(folder, module.plan, cases, gpu_of(trainer)), verbose=False)
    if trainer.is_global_zero:
        open_log(given[LogSettings], given.as_json(), rank=global_rank()).log(step=(), data=module.evaluation())
        print(*write_scores(given[LogSettings].results, module), sep="\n")
    return 0


TESTING: tuple[type[Settings], ...] = (  # what every evaluation reads
    FolderSettings,
    FoldSettings,
    LogSettings,
    DeviceSettings,
    trained.TrainedSettings,
    LimitSettings,
    WindowSettings,
)
MODES = (
    Mode(
        name="--exec_mode evaluate",
        help="Dice of a trained segmentation on the fold's validation cases, or on a list of scans",
        chosen_by={"exec_mode": "evaluate", "kind": "segmentation", "benchmark": False},
        groups=(
            *TESTING,
            trained.PublishedSettings,
            EvaluationSettings,
            FormatSettings,
            OwnSettings,
            LossSettings,
            ValidationSettings,
            TTASettings,
        ),
        run=segmentation,
    ),
    Mode(
        name="--exec_mode evaluate --kind classification",
        help="accuracy, AUC and confusion matrix of a trained classification on the fold's validation scans",
        chosen_by={"exec_mode": "evaluate", "kind": "classification", "benchmark": False},
        groups=(*TESTING, ClassTableSettings),
        run=classification,
    ),
)
