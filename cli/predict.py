"""``--exec_mode predict``: label maps of raw scans or of a preprocessed folder, on each scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cases.case import CaseError, list_cases
from cases.folder import FolderSettings
from cases.settings import Given, Settings, setting
from cases.splits import FoldSettings, fold_cases
from cases.volumes import FormatSettings, use_formats
from cli.labelling import Labelling, predictions_name
from cli.mode import Mode
from cli.trained import PublishedSettings, TrainedSettings, any_checkpoint, own_checkpoint
from data_preprocessing.recipes import OwnSettings
from inference.components import ComponentSettings
from inference.scans import input_scans
from inference.sliding_window import WindowSettings
from inference.tta import TTASettings
from runtime.devices import DeviceSettings
from runtime.dllogger_backend import ResultsSettings


@dataclass(frozen=True, kw_only=True)
class InputSettings(Settings):
    """Scans to look at."""

    input: Path | None = setting(None, "a scan or a folder of scans instead of a preprocessed folder", kept=False)


@dataclass(frozen=True, kw_only=True)
class PredictionSettings(InputSettings):
    """Prediction."""

    save_preds: bool = setting(
        False, "write probabilities beside the label maps", flags=("--save_probabilities",), kept=False
    )


def predict(given: Given) -> int:
    """Write label maps; 1 if a case failed, after all others."""
    use_formats(given[FormatSettings].formats)
    chosen, results = given[PredictionSettings], given[ResultsSettings].results
    if chosen.input is not None:
        source = any_checkpoint(given)
        scans = input_scans(chosen.input, channels=len(source.plan.channels))
        labelling = Labelling(given, source, results, keep_probabilities=chosen.save_preds)
        return labelling.write_scans(scans)[0]
    folder = given[FolderSettings].folder("test")
    checkpoint = own_checkpoint(given)
    checkpoint.check_plan(given[FolderSettings].plan("test"), folder)
    cases = list_cases(folder)
    if folder.name == "val":  # holds every training case; the fold's validation cases are unseen
        _, cases = fold_cases(folder, given[FoldSettings])
    if not cases:
        raise CaseError(f"{folder} holds no cases: run preprocess.py --exec_mode test first")
    target = results / predictions_name(given)
    labelling = Labelling(given, checkpoint, target, keep_probabilities=chosen.save_preds)
    return labelling.write_stored(folder, cases)[0]


MODES = (
    Mode(
        name="--exec_mode predict",
        help="write label maps of scans, each on its own grid",
        chosen_by={"exec_mode": "predict", "kind": "segmentation", "benchmark": False},
        groups=(
            FolderSettings,
            FoldSettings,
            ResultsSettings,
            DeviceSettings,
            TrainedSettings,
            PublishedSettings,
            PredictionSettings,
            ComponentSettings,
            FormatSettings,
            OwnSettings,
            WindowSettings,
            TTASettings,
        ),
        run=predict,
    ),
)
