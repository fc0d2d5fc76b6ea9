"""A pre-training method from outside the tree: one file, named as file.py:object. docs/extending.md shows another."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from cases.registry import RegistryError
from cases.settings import Given, SettingsError
from data_loading.module import LoaderSettings
from nets.dynamic_unet import NetworkSettings
from pretraining import METHODS
from pretraining.base import Run
from pretraining.loader import RestorationDataModule
from tests.conftest import make_plan
from training.optimization import OptimizationSettings

MASKED = '''
"""Masked restoration: some blocks of a patch are hidden; the network learns to restore what they showed."""

from dataclasses import dataclass

import numpy as np

from cases.settings import Settings, at_least, probability, setting
from pretraining.base import Method, Pretraining
from pretraining.genesis.source import CasePatches
from pretraining.restoration import RestorationModule


@dataclass(frozen=True, kw_only=True)
class MaskSettings(Settings):
    """Masked restoration."""

    hidden: float = setting(0.6, "probability that a block is hidden", check=probability)
    block: int = setting(8, "side of a block in voxels", check=at_least(1))


@dataclass(frozen=True)
class Mask:
    """The corruption: hidden voxels are 0. Runs in the loader's workers."""

    settings: MaskSettings

    def apply_cpu(self, patch, seed):
        block, sides = self.settings.block, patch.shape[1:]
        rng = np.random.default_rng(seed)
        hidden = rng.random([-(-side // block) for side in sides]) < self.settings.hidden
        for axis, side in enumerate(sides):
            hidden = hidden.repeat(block, axis).take(range(side), axis)
        return np.where(hidden, np.float32(0), patch), patch


class MaskedModule(RestorationModule):
    """The loss looks at hidden voxels alone."""

    def error(self, restored, batch):
        hidden = batch["image"] != batch["target"]
        return ((restored - batch["target"]) ** 2 * hidden).sum() / hidden.sum().clamp_min(1)


class Masked(Method):
    settings = (MaskSettings,)

    def build(self, given, run):
        plan = run.unmirrored_plan()
        train, validation = (CasePatches(run.folder, cases, plan.in_channels) for cases in run.load_fold())
        module = MaskedModule(plan, run.network, **run.for_module())
        return Pretraining(module=module, train=train, validation=validation, corruption=Mask(given[MaskSettings]))
'''


@pytest.fixture
def name(tmp_path, monkeypatch):
    """``file.py:object`` of the method above."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "masked.py").write_text(MASKED)
    yield f"{tmp_path / 'masked.py'}:Masked"
    sys.modules.pop("masked", None)


def test_a_method_from_a_file_is_trained(name, make_folder, tmp_path):
    folder, plan, cases = make_folder(4, labelled=False)
    method = METHODS.get(name)()
    (kind,) = METHODS.settings_of(name)
    torch.manual_seed(0)
    run = Run(
        folder=folder,
        results=tmp_path,
        fold=0,
        load_plan=lambda: plan,
        load_fold=lambda: (cases[:3], cases[3:]),
        network=NetworkSettings(depth=1, filters=(4, 8)),
        optimization=OptimizationSettings(learning_rate=0.01),
        record={"method": name},
    )
    work = method.build(Given((kind(hidden=0.5, block=4),)), run)
    loading = LoaderSettings(batch_size=2, num_workers=0, steps_per_epoch=2)
    data = RestorationDataModule(work.train, work.validation, work.module.plan, loading, work.corruption)
    (batch, *_) = list(data.val_dataloader())
    hidden = (batch["image"] != batch["target"]).float().mean()
    assert 0.3 < hidden < 0.7
    before = [value.clone() for value in work.module.network.parameters()]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", use_distributed_sampler=False, **quiet)
    trainer.fit(work.module, datamodule=data)
    method.finish(work, run, trainer)
    assert trainer.global_step == 2
    assert np.isfinite(work.module.evaluation()["Val Loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, work.module.network.parameters(), strict=True))
    content = {}
    work.module.on_save_checkpoint(content)
    assert content["kind"] == "restoration"
    assert content["settings"] == {"method": name}


def test_its_loss_is_that_of_hidden_voxels(name):
    METHODS.get(name)
    module = sys.modules["masked"].MaskedModule(make_plan(), NetworkSettings(depth=1, filters=(2, 4)))
    target = torch.full((1, 1, 8, 12, 16), 0.5)
    image, restored = target.clone(), torch.full_like(target, 0.9)
    image[..., :4], restored[..., :4] = 0, 0.7
    assert module.error(restored, {"image": image, "target": target}).item() == pytest.approx(0.04)


def test_its_settings_are_checked(name):
    (kind,) = METHODS.settings_of(name)
    with pytest.raises(SettingsError, match="--hidden 2 is not a probability; --block 0 is below 1"):
        kind(hidden=2, block=0)


def test_an_unknown_method_is_named():
    with pytest.raises(RegistryError, match=r"pre-training method 'genisis' is none of .*did you mean genesis"):
        METHODS.get("genisis")


def test_an_object_that_is_no_method_is_refused():
    with pytest.raises(RegistryError, match="is no pre-training method: it has no settings, build"):
        METHODS.get("pretraining.corruption:Unchanged")


def test_the_table_brings_no_torch():
    code = "import sys, pretraining; print('torch' in sys.modules, *pretraining.METHODS)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "genesis", "autoencoder", "semantic"]
