"""Semantic Genesis: its loss against the published form, and that it learns; the autoencoder's features."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn import functional as F

from cases.case import read_info
from data_loading.module import LoaderSettings
from nets.dynamic_unet import NetworkSettings
from pretraining.autoencoder.module import AutoencoderModule, save_features
from pretraining.autoencoder.network import build_autoencoder
from pretraining.autoencoder.source import ScanPatches
from pretraining.corruption import Unchanged
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.loader import RestorationDataModule
from pretraining.semantic.files import read_features
from pretraining.semantic.module import SemanticModule
from pretraining.semantic.patterns import Extents, Patterns, PatternSettings, discover
from pretraining.semantic.pictures import draw_patterns
from pretraining.semantic.report import correlations, instances, measure
from pretraining.semantic.source import PatternPatches
from pretraining.semantic.transformations import SemanticTransformations
from tests.conftest import make_plan
from training.optimization import OptimizationSettings

NETWORK = NetworkSettings(filters=(4, 8), depth=1, norm="batch")
ADAM = OptimizationSettings(learning_rate=3e-3)


def scan(index: int) -> np.ndarray:
    """Bright planes at places of the scan, so that every place has its own look; a little noise."""
    d, h, w = np.meshgrid(*(np.linspace(0, 1, n) for n in (12, 16, 20)), indexing="ij")
    rng = np.random.default_rng(index)
    return (np.sin(9 * d) + np.sin(11 * h + 1) + np.cos(7 * w) + 0.1 * rng.normal(size=d.shape))[None] * 0.6


@pytest.fixture
def found(make_folder: Callable) -> tuple[Path, Patterns]:
    folder, _, names = make_folder(10, image=scan, labelled=False)
    settings = PatternSettings(
        cube_size=(8, 8, 8), classes=4, instances=8, val_instances=2, tissue_filter=False, distance=4, border=(0,) * 3
    )
    vectors = np.random.default_rng(0).normal(size=(10, 5))
    extents = Extents.of([read_info(folder, name) for name in names])
    return folder, discover(names, vectors, extents, names[8:], settings, say=lambda line: None)


def semantic(plan: object, **changes: object) -> SemanticModule:
    torch.manual_seed(0)
    return SemanticModule(plan, NETWORK, n_class=4, optimization=ADAM, **changes)


def data(folder: Path, patterns: Patterns, plan: object) -> RestorationDataModule:
    train, val = (PatternPatches(folder, patterns, rows, 1) for rows in (patterns.training, patterns.validation))
    gentle = GenesisCorruption(SemanticTransformations(elastic_sigma=2.0, elastic_alpha=10.0))
    return RestorationDataModule(train, val, plan, LoaderSettings(batch_size=8, num_workers=0), gentle)


def fit(module: nn.Module, loader: RestorationDataModule, epochs: int) -> list[dict[str, float]]:
    history: list[dict[str, float]] = []
    conclude = module.conclude

    def remember(*evaluation: object) -> None:
        conclude(*evaluation)
        history.append(dict(module.evaluation()))

    module.conclude = remember  # type: ignore[method-assign]
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=loader)
    return history


def test_cross_entropy_from_logits_is_the_log_of_the_softmax() -> None:
    """The published head's softmax and the log that its training takes, where that does not underflow."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(64, 44, generator=generator, dtype=torch.float64) * 5
    label = torch.randint(44, (64,), generator=generator)
    published = F.nll_loss(torch.log(torch.softmax(scores, 1)), label)
    one_hot = -(F.one_hot(label, 44) * torch.log(torch.softmax(scores, 1))).sum(1).mean()
    torch.testing.assert_close(F.cross_entropy(scores, label), published, rtol=1e-12, atol=0)
    torch.testing.assert_close(F.cross_entropy(scores, label), one_hot, rtol=1e-12, atol=0)
    far = torch.tensor([[200.0, 0.0]])
    assert torch.isinf(F.nll_loss(torch.log(torch.softmax(far, 1)), torch.tensor([1])))
    assert F.cross_entropy(far, torch.tensor([1])) == 200


def test_the_loss_is_the_weighted_sum() -> None:
    module = semantic(make_plan((8, 8, 8)), lambda_rec=2.0, lambda_cls=0.3).eval()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(1)
    batch = {key: torch.rand(3, 1, 8, 8, 8, generator=generator) for key in ("image", "target")}
    batch["class"] = torch.tensor([0, 3, 1])
    logits, scores = module.network(batch["image"])
    published = -torch.log(torch.softmax(scores, 1))[range(3), batch["class"]].mean()
    expected = 2 * ((torch.sigmoid(logits) - batch["target"]) ** 2).mean() + 0.3 * published
    torch.testing.assert_close(module.training_step(batch, 0), expected)
    encoder_only = semantic(make_plan((8, 8, 8)), exp="en").eval()
    encoder_only.log = lambda *_, **__: None  # type: ignore[method-assign]
    encoder_only.network.load_state_dict(module.network.state_dict())
    torch.testing.assert_close(encoder_only.training_step(batch, 0), published)


def test_it_learns_classes_and_restoration(found: tuple[Path, Patterns]) -> None:
    folder, patterns = found
    plan = make_plan((8, 8, 8))
    history = fit(semantic(plan), data(folder, patterns, plan), 8)
    assert history[-1]["Restoration loss"] < 0.7 * history[0]["Restoration loss"]
    assert history[-1]["Pseudo-class accuracy %"] >= 50  # of held-out scans; chance is 25
    assert history[-1]["Val Loss"] == pytest.approx(
        history[-1]["Restoration loss"] + 0.01 * history[-1]["Class loss"], rel=1e-6
    )


def test_encoder_alone_leaves_the_decoder(found: tuple[Path, Patterns]) -> None:
    folder, patterns = found
    plan = make_plan((8, 8, 8))
    module = semantic(plan, exp="en")
    before = copy.deepcopy(module.network.state_dict())
    history = fit(module, data(folder, patterns, plan), 2)
    moved = {name for name, value in module.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("net.encoder.", "head.")) for name in moved)
    assert history[-1]["Class loss"] < history[0]["Class loss"] and "Restoration loss" not in history[-1]


def test_the_autoencoder_ends_in_features(make_folder: Callable, tmp_path: Path) -> None:
    folder, _, names = make_folder(6, image=lambda i: scan(0) * (0.3 if i < 3 else -0.3), labelled=False)
    plan = make_plan((8, 8, 8))
    scans = ScanPatches(folder, names, 1)
    torch.manual_seed(0)
    module = AutoencoderModule(plan, NETWORK, network=build_autoencoder(plan, NETWORK), optimization=ADAM)
    loading = LoaderSettings(batch_size=3, num_workers=0, steps_per_epoch=8)
    history = fit(module, RestorationDataModule(scans, scans, plan, loading, Unchanged()), 3)
    assert history[-1]["Val Loss"] < history[0]["Val Loss"]
    said: list[str] = []
    path = tmp_path / "features.npy"
    save_features(path, module.network, None, scans, (8, 8, 8), torch.device("cpu"), say=said.append)
    cases, features = read_features(path)
    assert cases == names and features.shape == (6, 8) and "6 scans, 8 features each" in said[0]
    np.testing.assert_allclose(features[0], features[2], atol=1e-6)
    assert np.abs(features[0] - features[3]).max() > 0.01


def test_instances_of_a_class_are_more_alike(found: tuple[Path, Patterns], tmp_path: Path) -> None:
    folder, patterns = found
    likeness = measure(folder, patterns)
    assert likeness.within > 0.85 > likeness.random + 0.2 and likeness.between < 0.5
    cubes = instances(folder, patterns, 5)
    assert cubes.shape == (4, 5, 1, 8, 8, 8)
    draw_patterns(tmp_path / "patterns.png", cubes)
    assert (tmp_path / "patterns.png").read_bytes().startswith(b"\x89PNG")


def test_correlations_are_numpys() -> None:
    cubes = np.random.default_rng(0).normal(size=(3, 4, 1, 2, 3, 5))
    table = np.corrcoef(cubes.reshape(12, -1))
    label = np.repeat(range(3), 4)
    same = label[:, None] == label
    within, between = correlations(cubes)
    assert within == pytest.approx(table[same & ~np.eye(12, dtype=bool)].mean(), abs=1e-6)
    assert between == pytest.approx(table[~same].mean(), abs=1e-6)
