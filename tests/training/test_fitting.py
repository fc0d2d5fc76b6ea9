"""What a training is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from cases.plan import Plan
from inference.sliding_window import SlidingWindow, WindowSettings
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from runtime.dllogger_backend import RunLogger
from training.averaging import AveragedWeights
from training.callbacks import Profile
from training.checkpoint import SaveSettings
from training.fitting import FitSettings, build_trainer, training_arguments, training_callbacks
from training.learning import TrainingError
from training.losses.dice_ce import Dice
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule
from training.synchronise import SynchronisedNorms

CPU: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true",
}  # fmt: skip
MakeFolder = Callable[..., tuple[Path, Plan, list[str]]]


def segmentation(plan: Plan, **changes: Any) -> SegmentationModule:
    settings = NetworkSettings(depth=1, filters=(4, 8))
    network = build_network(plan, settings, out_channels=plan.n_class)
    windows = SlidingWindow.of(plan, WindowSettings())
    return SegmentationModule(plan, network, settings, windows=windows, loss=Dice(), **changes)


def test_faults_come_in_one_message() -> None:
    with pytest.raises(
        TrainingError, match=r"--patience 0 is not above 0; --ema 1.0 is not in \[0, 1\); --min_epochs 9"
    ):
        FitSettings(patience=0, ema=1.0, epochs=3, min_epochs=9)


@pytest.mark.parametrize(
    ("changes", "first", "expected"),
    [
        ({}, 0, True),
        ({"skip_first_n_eval": 4}, 0, False),
        ({"val_every": 3}, 0, True),
        ({"val_every": 3}, 3, False),
        ({"val_every": 5}, 0, False),
    ],
)
def test_whether_a_run_is_evaluated_at_all(changes: dict[str, int], first: int, expected: bool) -> None:
    assert FitSettings(epochs=4, **changes).evaluates(first) is expected


def test_callbacks_follow_the_settings(make_folder: MakeFolder, tmp_path: Path) -> None:
    _, plan, _ = make_folder(1)
    module, logger = segmentation(plan), RunLogger(tmp_path / "logs.json")
    settings = FitSettings(patience=7, ema=0.9, profile=True)
    made = training_callbacks(settings, SaveSettings(ckpt_store_dir=tmp_path / "kept"), module, logger, tmp_path)
    stopping = next(callback for callback in made if isinstance(callback, EarlyStopping))
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("dice", "max", 7)
    best, last = [callback for callback in made if isinstance(callback, ModelCheckpoint)]
    assert (best.monitor, best.mode, best.filename) == ("dice", "max", "{epoch}-{dice:.2f}")
    assert (last.monitor, last.filename) == (None, "last")
    assert Path(str(best.dirpath)) == tmp_path / "kept" / "checkpoints"
    assert {AveragedWeights, Profile} <= {type(callback) for callback in made}
    bare = training_callbacks(FitSettings(), SaveSettings(save_ckpt=False), module, logger, tmp_path)
    assert not {AveragedWeights, Profile, ModelCheckpoint} & {type(callback) for callback in bare}


def test_the_trainer_takes_the_groups(tmp_path: Path) -> None:
    further = training_arguments(
        FitSettings(epochs=5, min_epochs=2, val_every=3, sync_batchnorm=True),
        OptimizationSettings(gradient_clip_val=12),
    )
    trainer = build_trainer(CPU, "disabled", tmp_path, [], **further)
    assert (trainer.max_epochs, trainer.min_epochs, trainer.check_val_every_n_epoch) == (5, 2, 3)
    assert trainer.gradient_clip_val == 12
    assert isinstance(trainer._accelerator_connector._layer_sync, SynchronisedNorms)
    plain = build_trainer(CPU, "disabled", tmp_path, [], **training_arguments(FitSettings(), OptimizationSettings()))
    assert plain.gradient_clip_val is None
    assert plain._accelerator_connector._layer_sync is None


def test_several_processes_on_the_cpu_have_no_synchronised_batch_norm(tmp_path: Path) -> None:
    two = {**CPU, "devices": 2, "strategy": "ddp"}
    with pytest.raises(TrainingError, match="--sync_batchnorm is for GPUs"):
        build_trainer(two, "disabled", tmp_path, [], sync_batchnorm=True)


def test_a_segmentation_has_no_loss_to_wait_for(make_folder: MakeFolder) -> None:
    _, plan, _ = make_folder(1)
    with pytest.raises(TrainingError, match="--scheduler plateau follows the loss of the validation"):
        segmentation(plan, optimization=OptimizationSettings(scheduler="plateau"))
