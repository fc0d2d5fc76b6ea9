"""Writing checkpoints whole, and what a resumed run must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cases.plan import Plan
from cases.settings import Settings, as_json, setting
from nets.choice import NetworkChoice
from nets.dynamic_unet import NetworkSettings
from tests.conftest import make_plan
from training.checkpoint import (
    Checkpoint,
    CheckpointError,
    Kind,
    SaveSettings,
    StartSettings,
    WholeFiles,
    describe,
    find_resumable,
)
from training.fitting import FitSettings
from training.losses import LossSettings
from training.losses.dice_ce import VoxelTermSettings
from training.optimization import OptimizationSettings


def test_a_save_that_breaks_off_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = WholeFiles(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"epoch": 1}, path)

    def cut(_: dict[str, Any], target: Path) -> None:
        target.write_bytes(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", cut)
        files.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    files.save_checkpoint({"epoch": 3}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 3}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@dataclass(frozen=True, kw_only=True)
class Transformations(Settings):
    """Some of a method's"""

    transformations: tuple[str, ...] = setting(("flip", "shuffle"), flags=("--methods",))
    shuffle_probability: float = setting(0.5)
    curve: tuple[float, ...] | None = setting(None)
    workers: int = setting(8, kept=False)


def checkpoint_of(**settings: Any) -> Checkpoint:
    plan = make_plan()
    return Checkpoint(
        path=Path("last.ckpt"),
        plan=plan,
        network=NetworkChoice(network=NetworkSettings()),
        settings=settings,
        weights={},
        n_outputs=3,
        kind="segmentation",
        epoch=1,
    )


def test_a_resumed_run_keeps_what_its_fields_say() -> None:
    ran = as_json(OptimizationSettings(), FitSettings(epochs=5), LossSettings(), VoxelTermSettings())
    now = (OptimizationSettings(), FitSettings(epochs=9, patience=3, sync_batchnorm=True), LossSettings())
    checkpoint_of(**ran).check_run(now)
    message = "last.ckpt cannot be resumed exactly: it ran with --focal False, not True: give the same"
    with pytest.raises(CheckpointError, match=message):
        checkpoint_of(**ran).check_run((*now, VoxelTermSettings(focal=True)))
    with pytest.raises(CheckpointError, match=r"--optimizer adam, not sgd, --momentum 0.99, not 0.9"):
        checkpoint_of(**ran).check_run([OptimizationSettings(optimizer="sgd", momentum=0.9)])


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle", "polynomial"])
def test_epochs_are_kept_where_they_stretch_the_schedule(scheduler: Any) -> None:
    ran = as_json(OptimizationSettings(scheduler=scheduler), FitSettings(epochs=5))
    with pytest.raises(CheckpointError, match="--epochs 5, not 9"):
        checkpoint_of(**ran).check_run([FitSettings(epochs=9)])


def test_what_an_older_checkpoint_does_not_hold_had_its_default() -> None:
    checkpoint_of().check_run([Transformations(), OptimizationSettings()])
    with pytest.raises(CheckpointError, match="--plateau_epochs 20, not 3"):
        checkpoint_of().check_run([OptimizationSettings(plateau_epochs=3)])


def test_former_names_and_forms_are_understood() -> None:
    older = checkpoint_of(methods=("flip",), genesis=("shuffle_probability=0.3", "curve=[0.1, 0.2]"))
    older.check_run([Transformations(transformations=("flip",), shuffle_probability=0.3, curve=(0.1, 0.2), workers=2)])
    with pytest.raises(CheckpointError) as error:
        older.check_run([Transformations()])
    assert "--transformations flip, not flip shuffle" in str(error.value)
    assert "--shuffle_probability 0.3, not 0.5, --curve 0.1 0.2, not None" in str(error.value)
    checkpoint_of(methods=None, genesis=None).check_run([Transformations()])


def test_checkpoints_lie_below_their_own_folder_or_the_results() -> None:
    assert SaveSettings().folder(Path("/results")) == Path("/results/checkpoints")
    assert SaveSettings(ckpt_store_dir=Path("/kept")).folder(Path("/results")) == Path("/kept/checkpoints")


def written_run(folder: Path, *groups: Settings) -> Plan:
    plan = make_plan()
    content = describe("segmentation", plan, NetworkSettings(), 3, as_json(*groups))
    WholeFiles().save_checkpoint(content | {"state_dict": {}}, folder / "checkpoints" / "last.ckpt")
    return plan


def test_a_run_continues_from_its_own_last_checkpoint_alone(tmp_path: Path) -> None:
    def find(save: SaveSettings, kind: Kind = "segmentation", start: StartSettings | None = None) -> Path | None:
        groups = (OptimizationSettings(), save)
        where = {"plan": plan, "cases": tmp_path, "results": tmp_path}
        return find_resumable(save, start or StartSettings(), groups, kind=kind, **where)  # type: ignore[arg-type]

    last = tmp_path / "checkpoints" / "last.ckpt"
    plan = make_plan()
    assert find(SaveSettings()) is None
    with pytest.raises(CheckpointError, match=r"last\.ckpt does not exist"):
        find(SaveSettings(resume_training=True))
    plan = written_run(tmp_path, OptimizationSettings(), SaveSettings())
    assert find(SaveSettings(resume_training=True)) == last
    assert find(SaveSettings(save_ckpt=False)) is None
    with pytest.raises(CheckpointError, match="belongs to an earlier run, which this one would replace"):
        find(SaveSettings())
    with pytest.raises(CheckpointError, match="holds a network for segmentation, not classification"):
        find(SaveSettings(resume_training=True), "classification")
    elsewhere = last.rename(tmp_path / "kept.ckpt")
    assert find(SaveSettings(resume_training=True), start=StartSettings(ckpt_path=elsewhere)) == elsewhere
    plan = plan.with_(spacing_mm=(2.0, 1.0, 1.0))
    with pytest.raises(CheckpointError, match="was trained under another plan"):
        find(SaveSettings(resume_training=True), start=StartSettings(ckpt_path=elsewhere))
