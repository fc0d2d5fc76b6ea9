"""Whole volumes in validation: Dice, and any loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cases.case import open_array
from cases.plan import Plan
from data_loading.augmentation.pipeline import Augmentation
from data_loading.module import LoaderSettings, SegmentationDataModule
from inference.metrics import overlap
from inference.sliding_window import SlidingWindow, WindowSettings
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from training.fitting import build_trainer
from training.losses.base import Loss, Voxels
from training.losses.dice_ce import DiceCrossEntropy
from training.segmentation import SegmentationModule

CPU: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true",
}  # fmt: skip
MakeFolder = Callable[..., tuple[Path, Plan, list[str]]]


class WorstPlane(Loss):
    """Of no use in parts: the plane along H that is worst."""

    def of(self, voxels: Voxels) -> torch.Tensor:
        return -voxels.log_true.mean(dim=(1, 3)).min()


@pytest.mark.parametrize("make_loss", [DiceCrossEntropy, WorstPlane])
def test_validation_is_that_of_whole_volumes(
    make_folder: MakeFolder, tmp_path: Path, make_loss: Callable[[], Loss]
) -> None:
    folder, plan, cases = make_folder(2, patch_size=(8, 8, 8))
    torch.manual_seed(0)
    settings = NetworkSettings(depth=1, filters=(4, 8))
    network = build_network(plan, settings, out_channels=plan.n_class)
    windows = SlidingWindow.of(plan, WindowSettings(overlap=0.25, val_batch_size=3))
    assert (windows.overlap, windows.batch_size, windows.blend) == (0.25, 3, "gaussian")
    module = SegmentationModule(plan, network, settings, windows=windows, loss=make_loss())
    data = SegmentationDataModule(
        folder=folder,
        plan=plan,
        train_cases=[],
        val_cases=cases,
        settings=LoaderSettings(num_workers=0),
        augmentation=Augmentation(),
        device_id=None,
    )
    trainer = build_trainer(CPU, "disabled", tmp_path, [])
    trainer.validate(module, datamodule=data, verbose=False)
    found = module.evaluation()

    losses, dice = [], []
    for case in cases:
        image, label = (torch.from_numpy(open_array(folder, case, part).copy()) for part in ("x", "y"))
        p = windows.scores(image, module.eval().predictor())
        losses.append(make_loss()(p.log()[None], label[None]).item())
        dice.append(100 * overlap(p.argmax(0), label[0], plan.n_class).dice.mean().item())
    assert found["Val Loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert found["Dice"] == pytest.approx(sum(dice) / 2, rel=1e-4)
