"""``--exec_mode train``: one fold of a segmentation, or of a classification."""

from __future__ import annotations

from pytorch_lightning import seed_everything

from cases.case import CaseError, list_cases
from cases.folder import FolderSettings
from cases.regions import RegionSettings, check_challenge_names
from cases.settings import Given, Settings
from cases.splits import TrainingFoldSettings
from cli import building
from cli.mode import Mode
from data_loading.augmentation.pipeline import AugmentationSettings
from data_loading.module import LoaderSettings, SliceSettings
from data_loading.sources.sampling import PlaceSettings
from inference.sliding_window import WindowSettings
from inference.tta import TTASettings
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from nets.weights.matching import TransferSettings
from runtime.devices import DeviceSettings
from runtime.dllogger_backend import LogSettings
from training.checkpoint import SaveSettings, StartSettings
from training.classification import ClassificationSettings, write_scores
from training.compilation import CompileSettings
from training.fitting import FitSettings, LimitSettings
from training.losses import LossSettings
from training.optimization import OptimizationSettings
from training.segmentation import ValidationSettings

LEARNING: tuple[type[Settings], ...] = (  # what every training reads, that of unlabelled scans too
    FolderSettings,
    TrainingFoldSettings,
    LogSettings,
    DeviceSettings,
    LoaderSettings,
    TransferSettings,
    OptimizationSettings,
    FitSettings,
    LimitSettings,
    CompileSettings,
    StartSettings,
    SaveSettings,
)
PATCHES: tuple[type[Settings], ...] = (SliceSettings, AugmentationSettings)  # how labelled scans are loaded
THE_PLAN_HAS_IT = "the plan has it; preprocess.py --patch_size sets it"


def segment(given: Given) -> int:
    """Train one fold of a segmentation."""
    folder, plan = given[FolderSettings].folder(), building.training_plan(given)
    if len(plan.labels) < 2:
        raise CaseError(f"{folder} has no labels: training a segmentation needs them")
    if given[RegionSettings].brats and not given[SaveSettings].resume_training:
        check_challenge_names(plan.labels, list_cases(folder))
    cases = building.training_cases(given)
    seed_everything(given[LoaderSettings].seed, verbose=False)
    training = building.Training(given, building.build_module(given, plan), folder)
    trainer = training.trainer()
    training.fit(trainer, building.build_data(given, plan, cases, trainer), (len(cases[0]), len(cases[1])))
    return 0


def classify(given: Given) -> int:
    """Train one fold of a classification."""
    folder, plan = given[FolderSettings].folder(), building.training_plan(given)
    seed_everything(given[LoaderSettings].seed, verbose=False)
    module = building.build_class_module(given, plan)
    training = building.Training(given, module, folder)
    trainer = training.trainer()
    data = building.build_class_data(given, module, trainer)
    training.fit(trainer, data, (len(data.train_cases), len(data.val_cases)))
    if trainer.is_global_zero and module.scores is not None:
        write_scores(training.results, module)
    return 0


def learning_faults(given: Given) -> list[str]:
    """Faults of every training."""
    both = given[TransferSettings].pretrained is not None and given[StartSettings].ckpt_path is not None
    if both and not given[SaveSettings].resume_training:
        return ["give --pretrained (part of another network) or --ckpt_path (this very network), not both"]
    return []


def supervised_faults(given: Given) -> list[str]:
    """Faults of a training with labels."""
    faults = learning_faults(given)
    if given[OptimizationSettings].scheduler == "plateau":
        faults.append("--scheduler plateau is for --exec_mode pretrain")
    return faults + axes_faults(given) + slice_faults(given)


def segmentation_faults(given: Given) -> list[str]:
    """Faults of a segmentation's training."""
    faults = supervised_faults(given)
    chosen = given[RegionSettings]
    if given[SegmentationNetworkSettings].conv_seg and (chosen.brats or chosen.regions):
        flag = "--brats" if chosen.brats else "--regions"
        faults.append(f"--conv_seg is for a segmentation of classes: not for {flag}")
    return faults


def axes_faults(given: Given) -> list[str]:
    """Axes that the network has not."""
    dim, faults = given[FolderSettings].dim, []
    axes = {"mirror_axes": given[AugmentationSettings].mirror_axes}
    if TTASettings in given:
        axes["tta_axes"] = given[TTASettings].tta_axes
    for name, chosen in axes.items():
        if not set(chosen or ()) <= set(range(dim)):
            faults.append(f"--{name} {chosen}: a {dim}D network has axes 0..{dim - 1}")
    return faults


def slice_faults(given: Given) -> list[str]:
    """A 2D batch that cannot be filled with neighbouring slices."""
    slices, batch_size = given[SliceSettings], given[LoaderSettings].batch_size
    if given[FolderSettings].dim == 2 and slices.data2d_dim == 3 and batch_size % slices.nvol:
        return [f"--batch_size {batch_size} is no multiple of --nvol {slices.nvol}"]
    return []


MODES = (
    Mode(
        name="--exec_mode train",
        help="train one fold of a segmentation",
        chosen_by={"exec_mode": "train", "kind": "segmentation", "benchmark": False},
        groups=(
            *LEARNING,
            *PATCHES,
            PlaceSettings,
            SegmentationNetworkSettings,
            LossSettings,
            RegionSettings,
            ValidationSettings,
            WindowSettings,
            TTASettings,
        ),
        run=segment,
        faults=segmentation_faults,
        refuses={"patch_size": THE_PLAN_HAS_IT},
    ),
    Mode(
        name="--exec_mode train --kind classification",
        help="train one fold of a classification of whole scans",
        chosen_by={"exec_mode": "train", "kind": "classification", "benchmark": False},
        groups=(*LEARNING, *PATCHES, NetworkSettings, ClassificationSettings, WindowSettings),
        run=classify,
        faults=supervised_faults,
        refuses={"patch_size": THE_PLAN_HAS_IT},
    ),
)
