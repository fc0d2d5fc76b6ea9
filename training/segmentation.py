"""Segmentation: the LightningModule that trains, evaluates and predicts."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from data_preprocessing.plan import Plan
from data_preprocessing.regions import Regions
from inference.sliding_window import SlidingWindow
from nets.dynamic_unet import DynamicUNet, NetworkSettings
from training.losses import SegmentationLoss
from training.metrics import DiceMeter
from training.optimization import OptimizationSettings, build_optimizer, learning_rate_factor


class TrainingError(RuntimeError):
    """A run that cannot go on."""


class SegmentationModule(LightningModule):
    """Dice in percent, a mean over the classes without background, then over cases (absent classes left out).

    Args:
        plan: of the cases, with the axes that training mirrors.
        network: the U-Net, with as many outputs as classes or regions.
        network_settings: what rebuilds it; kept in the checkpoint.
        optimization: optimiser and schedule.
        windows: how a whole volume is predicted.
        tta_axes: spatial axes that validation flips; () for none.
        regions: overlapping regions in the place of classes (BraTS).
        focal: focal loss instead of cross entropy.
        invert_resampled: validate on the cropped label before resampling.
        skip_evaluations: epochs at the start without evaluation.
        run_settings: the command's settings as JSON-able values; kept in the checkpoint.
    """

    def __init__(
        self,
        plan: Plan,
        network: DynamicUNet,
        network_settings: NetworkSettings,
        *,
        windows: SlidingWindow,
        optimization: OptimizationSettings | None = None,
        tta_axes: tuple[int, ...] = (),
        regions: Regions | None = None,
        focal: bool = False,
        invert_resampled: bool = False,
        skip_evaluations: int = 0,
        run_settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.network = network
        self.network_settings = network_settings
        self.optimization = optimization or OptimizationSettings()
        self.windows = windows
        self.tta_axes = tta_axes
        self.regions = regions
        self.loss = SegmentationLoss(focal=focal, regions=regions)
        self.invert_resampled = invert_resampled
        self.skip_evaluations = skip_evaluations
        self.run_settings = run_settings or {}
        self.best_dice, self.best_epoch = -math.inf, 0
        self._evaluated: dict[str, float] = {}
