"""The data module under Lightning: epochs, sanity check, resuming, two ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from data_loading import module
from data_loading.augmentation.pipeline import Augmentation, AugmentationSettings
from data_loading.errors import LoaderError
from data_loading.module import LoaderSettings, SliceSettings, VolumeDataModule, batch_layout, patch_source
from data_loading.sources.sampling import PlaceSettings

MakeFolder = Callable[..., tuple]
SETTINGS = LoaderSettings(num_workers=0, steps_per_epoch=4)
SegmentationDataModule = partial(module.SegmentationDataModule, augmentation=Augmentation.nnunet())


class Recorder(LightningModule):
    """Learns one number and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[int, float]] = []
        self.validated: list[str] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        self.trained.append((self.current_epoch, float(batch["image"].sum())))
        return (self.weight - batch["image"].mean()) ** 2

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(batch["case"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(made: tuple, root: Path, *, epochs: int, resume: Path | None = None, **trainer: Any) -> Recorder:
    folder, plan, cases = made
    data = SegmentationDataModule(folder, plan, cases[:3], cases[3:], SETTINGS)
    model = Recorder()
    quiet = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(max_epochs=epochs, default_root_dir=root, **quiet, **trainer).fit(model, data, ckpt_path=resume)
    return model


@pytest.fixture
def made(make_folder: MakeFolder) -> tuple:
    return make_folder(5)


@pytest.mark.loader
def test_every_epoch_is_whole_and_new(made: tuple, tmp_path: Path) -> None:
    model = fit(made, tmp_path, epochs=3, enable_checkpointing=False)
    assert [epoch for epoch, _ in model.trained] == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(model.trained)) == 12
    assert model.validated == ["case_03", "case_04"] * 3


@pytest.mark.loader
@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_resumed_fit_sees_what_an_undisturbed_one_sees(made: tuple, tmp_path: Path, stop: int) -> None:
    whole = fit(made, tmp_path, epochs=3, enable_checkpointing=False)
    saver = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=stop, save_top_k=-1, filename="{step}")
    first = fit(made, tmp_path, epochs=2, callbacks=[saver])
    assert first.trained == whole.trained[:8]
    resumed = fit(made, tmp_path, epochs=3, resume=tmp_path / "ckpt" / f"step={stop}.ckpt", enable_checkpointing=False)
    assert [value for _, value in resumed.trained] == [value for _, value in whole.trained[stop:]]
    assert resumed.weight.item() == whole.weight.item()


def test_ranks_come_from_the_trainer(made: tuple) -> None:
    folder, plan, cases = made
    seen = []
    for rank in range(2):
        data = SegmentationDataModule(folder, plan, cases[:3], cases[3:], SETTINGS)
        data.trainer = SimpleNamespace(num_devices=1, global_rank=rank, world_size=2)  # type: ignore[assignment]
        seen.append([float(batch["image"].sum()) for batch in data.train_dataloader()])
        assert list(data.val_dataloader().cases) == [cases[3 + rank]]
        data.teardown("fit")
    assert len(set(seen[0] + seen[1])) == 8


def test_another_number_of_ranks_is_said_and_keeps_the_length_of_an_epoch(
    made: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plan, cases = made

    def data(world_size: int, steps: int = 0) -> module.SegmentationDataModule:
        made = SegmentationDataModule(folder, plan, cases, [], LoaderSettings(num_workers=0, batch_size=1))
        ranks = {"global_rank": 0, "world_size": world_size, "num_training_batches": steps}
        made.trainer = SimpleNamespace(num_devices=1, **ranks)  # type: ignore[assignment]
        return made

    state = data(2, steps=len(data(2).train_dataloader())).state_dict()
    assert state == {"world_size": 2, "steps_per_epoch": 3}
    same, other = data(2), data(1)
    same.load_state_dict(state)
    assert capsys.readouterr().err == ""
    other.load_state_dict(state)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "on 1 GPUs (ranks) instead of 2" in message
    assert "patches differ" in message
    assert len(other.train_dataloader()) == 3  # by itself one rank would take 5


def test_resuming_on_other_ranks_is_refused_within_an_epoch(made: tuple, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, filename="{step}", save_top_k=-1)
    fit(made, tmp_path, epochs=1, callbacks=[saver])
    path = tmp_path / "step=2.ckpt"
    content = torch.load(path, weights_only=False)
    content["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["world_size"] = 2
    torch.save(content, path)
    with pytest.raises(LoaderError, match="middle of an epoch with other settings: world_size 2 -> 1; restore them"):
        fit(made, tmp_path, epochs=1, resume=path, enable_checkpointing=False)


def test_settings_name_every_fault_at_once() -> None:
    with pytest.raises(LoaderError, match=r"batch_size 0 is below 1; --num_workers -1 .*; --train_batches -2"):
        LoaderSettings(batch_size=0, num_workers=-1, train_batches=-2)
    with pytest.raises(LoaderError, match=r"oversampling 2 is not a probability"):
        PlaceSettings(oversampling=2)


def test_a_2d_batch_is_nvol_volumes(make_folder: MakeFolder) -> None:
    _, plan, _ = make_folder(1, patch_size=(12, 16))
    assert batch_layout(plan, LoaderSettings(batch_size=64), SliceSettings()) == (4, 16)
    assert batch_layout(plan, LoaderSettings(batch_size=2), SliceSettings()) == (2, 1)
    assert batch_layout(plan, LoaderSettings(batch_size=64), SliceSettings(data2d_dim=2)) == (64, 1)


def test_an_epoch_visits_each_volume_about_once(make_folder: MakeFolder) -> None:
    folder, plan, cases = make_folder(5, patch_size=(12, 16))
    whole, single = (
        patch_source(
            folder,
            plan,
            cases,
            LoaderSettings(batch_size=8),
            Augmentation.nnunet(),
            slices=SliceSettings(nvol=2, data2d_dim=d),  # type: ignore[arg-type]
            compiled=True,
        )
        for d in (3, 2)
    )
    assert (whole.sampler.steps_per_epoch, single.sampler.steps_per_epoch) == (3, 1)  # of 2 volumes, of 8


def test_mirroring_follows_the_plan_unless_told_otherwise(make_folder: MakeFolder) -> None:
    folder, plan, cases = make_folder(2, mirror_axes=(2,))
    for axes, expected in ((None, (2,)), ((0, 1), (0, 1))):
        mirrored = AugmentationSettings(mirror_axes=axes).mirrored(plan)
        augmentation = Augmentation.only("mirror")
        data = module.SegmentationDataModule(folder, mirrored, cases, [], LoaderSettings(), augmentation)
        source = data.train_dataloader()._source
        _, patch = source.draw(0, 0)
        assert [axis for axis in range(3) if patch.matrix[axis, axis] < 0] == list(expected)


def test_axes_that_the_patch_has_not_cannot_be_mirrored(make_folder: MakeFolder) -> None:
    _, plan, _ = make_folder(1, patch_size=(12, 16))
    with pytest.raises(LoaderError, match=r"--mirror_axes 0 2: a 2D network has axes 0\.\.1"):
        AugmentationSettings(mirror_axes=(0, 2)).mirrored(plan)


def test_evaluation_needs_volumes_alone(made: tuple) -> None:
    folder, plan, cases = made
    data = VolumeDataModule(folder, plan, cases)
    data.trainer = SimpleNamespace(num_devices=1, global_rank=1, world_size=2)  # type: ignore[assignment]
    assert [item["case"] for item in data.val_dataloader()] == cases[1::2]
