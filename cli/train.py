"""``--exec_mode train``: one fold of a segmentation, or of a classification."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import seed_everything

from cases.case import CaseError, list_cases
from cases.folder import FolderSettings
from cases.plan import Plan
from cases.regions import RegionSettings
from cases.settings import Given
from cases.splits import TrainingFoldSettings
from cli.building import (
    axes_faults,
    build_class_data,
    build_class_module,
    build_data,
    build_module,
    fold_cases,
    training_plan,
)
from cli.mode import Mode
from cli.starting import find_resumable, start_weights
from data_loading.augmentation.pipeline import AugmentationSettings
from data_loading.module import LoaderSettings, SliceSettings
from data_loading.sources.sampling import PlaceSettings
from inference.sliding_window import WindowSettings
from inference.tta import TTASettings
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from nets.weights.matching import TransferSettings
from runtime.devices import DeviceSettings, global_rank
from runtime.dllogger_backend import LogSettings, open_log
from training.checkpoint import SaveSettings, StartSettings
from training.classification import ClassificationSettings, write_scores
from training.compilation import CompileSettings
from training.fitting import FitSettings, build_trainer, fit, training_callbacks
from training.losses import LossSettings
from training.optimization import OptimizationSettings
from training.segmentation import ValidationSettings

LEARNING = (  # what every training reads
    FolderSettings,
    TrainingFoldSettings,
    LogSettings,
    DeviceSettings,
    LoaderSettings,
    OptimizationSettings,
    FitSettings,
    CompileSettings,
    TransferSettings,
    StartSettings,
    SaveSettings,
)
PATCHES = (SliceSettings, AugmentationSettings, WindowSettings)


def segment(given: Given) -> int:
    """Train one fold of a segmentation."""
    folder = given[FolderSettings].folder()
    plan = training_plan(given)
    if len(plan.labels) < 2:
        raise CaseError(f"{folder} has no labels: training a segmentation needs them")
    cases = fold_cases(given)
    resume = find_resumable(given, plan, folder)
    seed_everything(given[LoaderSettings].seed, verbose=False)
    module = build_module(given, plan)
    module.new_layers = start_weights(given, module, folder, resume)
    logger = open_log(given[LogSettings], given.as_json(), rank=global_rank(), append=resume is not None)
    trainer = build_trainer(given, training_callbacks(given, logger, "{epoch}-{dice:.2f}", "max"))
    fit(given, trainer, module, build_data(given, plan, cases, trainer), tuple(map(len, cases)), resume)
    return 0


def classify(given: Given) -> int:
    """Train one fold of a classification."""
    folder, results = given[FolderSettings].folder(), given[LogSettings].results
    plan = training_plan(given)
    resume = find_resumable(given, plan, folder)
    seed_everything(given[LoaderSettings].seed, verbose=False)
    module = build_class_module(given, plan)
    module.new_layers = start_weights(given, module, folder, resume)
    logger = open_log(given[LogSettings], given.as_json(), rank=global_rank(), append=resume is not None)
    trainer = build_trainer(given, training_callbacks(given, logger, "classification-{epoch}-{loss:.4f}", "min"))
    data = build_class_data(given, module, trainer)
    fit(given, trainer, module, data, (len(data.train_cases), len(data.val_cases)), resume)
    if trainer.is_global_zero and module.scores is not None:
        write_scores(results, module)
    return 0
