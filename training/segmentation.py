"""Segmentation: the LightningModule that trains and evaluates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cases.case import open_array, read_info
from cases.plan import Plan
from cases.regions import Regions
from cases.settings import Settings, setting
from inference.metrics import DiceMeter
from inference.restore import decide, to_cropped
from inference.sliding_window import Predictor, Slab, SlidingWindow
from inference.tta import flip_average, probabilities
from nets.build import Chosen
from nets.network import Network
from runtime.transfer import send
from training.learning import LearningModule
from training.losses.base import Loss, VolumeLoss
from training.losses.supervision import DeepSupervision
from training.optimization import OptimizationSettings


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Settings):
    """Validation"""

    invert_resampled_y: bool = setting(
        False, "validate on the label before resampling, predictions resized to it", kept=False
    )


class SegmentationModule(LearningModule):
    """Trains on patches and evaluates whole volumes.

    Dice is in percent: the mean over cases of each case's mean over its classes, without the
    background and without classes that are in neither label map.

    Args:
        plan: of the cases, with the axes that training mirrors.
        network: a U-Net or MedicalNet's own, with as many outputs as classes or regions.
        network_settings: what rebuilds it; kept in the checkpoint.
        windows: how a whole volume is predicted.
        loss: of one head; the heads of deep supervision are averaged. Its regions, overlapping ones in the place of
            classes (BraTS), are what the network answers.
        optimization: optimiser and schedule.
        tta_axes: spatial axes that evaluation flips; () for none.
        validation: on which labels.
        run_settings: the command's settings as JSON-able values; kept in the checkpoint.
    """

    learns = "segmentation"
    monitor = "dice"
    higher_is_better = True

    def __init__(
        self,
        plan: Plan,
        network: Network,
        network_settings: Chosen,
        *,
        windows: SlidingWindow,
        loss: Loss,
        optimization: OptimizationSettings | None = None,
        tta_axes: tuple[int, ...] = (),
        validation: ValidationSettings | None = None,
        run_settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            plan,
            network,
            network_settings,
            n_outputs=network.out_channels,
            optimization=optimization,
            run_settings=run_settings,
        )
        self.windows = windows
        self.tta_axes = tta_axes
        self.loss = DeepSupervision(loss)
        self.validation = validation or ValidationSettings()
        self.meter = DiceMeter(plan.n_class, self.regions)
        self.said = ""  # of the last evaluation, for people
        self.val_loss = torch.zeros(2, dtype=torch.float64)  # sum over cases, and their number

    @property
    def best_name(self) -> str:
        return "{epoch}-{dice:.2f}"

    @property
    def regions(self) -> Regions | None:
        """What the network answers instead of classes."""
        return self.loss.loss.regions

    def predictor(self) -> Predictor:
        """Windows (N, C, *patch) to probabilities, averaged over the flips of ``tta_axes``."""
        return flip_average(
            probabilities(lambda windows: self.network(windows)[0], exclusive=self.regions is None), self.tta_axes
        )

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = self.loss(self(batch["image"]), batch["label"])
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not batch:  # a rank without cases
            return
        image, case = batch["image"][0], batch["case"]
        slabs: Iterable[Slab] = self.windows.stream(image, self.predictor(), device=self.device)
        if self.validation.invert_resampled_y:
            folder = self.trainer.datamodule.folder  # type: ignore[attr-defined]
            slabs = to_cropped(slabs, read_info(folder, case))
            label = send(torch.from_numpy(open_array(folder, case, "orig_y")[0].copy()), self.device)
        else:
            label = batch["label"][0, 0]
        loss = VolumeLoss(self.loss.loss, label)
        predicted = torch.empty_like(label)
        for slab in slabs:
            loss.add(slab.scores_cdhw, slab.place)
            predicted[slab.place] = decide(slab.scores_cdhw, self.regions)
        self.val_loss += torch.stack([loss.total().cpu(), torch.ones((), dtype=torch.float64)])
        self.meter.update(predicted, label)

    def on_validation_epoch_end(self) -> None:
        """Sum over the ranks, each case having been counted once, and log."""
        totals = torch.cat([self.val_loss[:, None], self.meter.totals], dim=1).to(self.device)
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum").cpu()
        dice = DiceMeter.record(totals[:, 1:])
        record = {"Dice": dice["Dice"], "Val Loss": float(totals[0, 0] / totals[1, 0])} | dice
        self.said = DiceMeter.describe(totals[:, 1:], self.regions.names if self.regions else self.plan.labels[1:])
        self.conclude(dice["Dice"], record, "Max Dice")
        self.log("val_loss", record["Val Loss"])
        self.val_loss.zero_()
        self.meter.reset()
