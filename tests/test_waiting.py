"""The training steps of every kind of learning, run by Lightning on a pretended GPU: none waits for the device.

What is looked at are whole steps as a run has them: fetching the batch, forward, loss, backward, clipping, optimiser,
schedule, ``self.log`` and the callbacks, from the second batch on. The first may wait for what is made once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import swa_utils

from cases.plan import Plan
from cases.regions import Regions
from cases.settings import Given
from data_loading.sources.classes import ClassTable
from inference.sliding_window import SlidingWindow
from nets.build import build_network
from nets.choice import NetworkChoice
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from nets.norm import fused
from pretraining.autoencoder.module import AutoencoderModule
from pretraining.autoencoder.network import build_autoencoder
from pretraining.restoration import RestorationModule
from pretraining.semantic.module import SemanticModule
from runtime.dllogger_backend import RunLogger
from tests.conftest import make_plan
from tests.pretended_gpu import GPU, PretendedGPU, Waits, pretended_gpu
from training.averaging import AveragedWeights
from training.checkpoint import SaveSettings
from training.classification import ClassificationModule, ClassificationSettings
from training.fitting import FitSettings, build_trainer, training_arguments, training_callbacks
from training.learning import LearningModule
from training.losses import LOSSES, LossSettings, build_loss, supervision
from training.losses.dice_ce import VoxelTermSettings
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule

STEPS = 4
REGIONS = Regions(names=("whole", "core"), members=((1, 2), (2,)), values=(1, 2))
SMALL: dict[str, Any] = {"depth": 2, "filters": (4, 8, 8)}
ADAM = OptimizationSettings(scheduler="cosine")
Make = Callable[[OptimizationSettings], LearningModule]


class PretendedAccelerator(CPUAccelerator):
    """Sets up any device, by doing nothing."""

    def setup_device(self, device: torch.device) -> None:
        pass


class OnPretendedGPU(SingleDeviceStrategy):
    """Lightning's own, but that it cannot move a network to a device without PyTorch's CUDA."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__(GPU, PretendedAccelerator())
        self.gpu = gpu

    def model_to_device(self) -> None:
        self.gpu.moved(self.model)
        self.lightning_module._device = GPU  # type: ignore[union-attr]

    def teardown(self) -> None:
        """Nothing moves back."""


class Busy(Callback):
    """The device is busy from the second batch to the last."""

    def __init__(self, gpu: PretendedGPU) -> None:
        self.busy = gpu.busy()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.busy.__enter__()
        if batch_idx == STEPS - 2:
            self.busy.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.busy.__exit__(None, None, None)  # Lightning tidies up


class Batches:
    """``STEPS`` batches of two that lie on the device."""

    wait_seconds = 0.0

    def __init__(self, module: LearningModule) -> None:
        plan, learns = module.plan, module.learns
        self.shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "image": ((2, plan.in_channels, *plan.patch_size), torch.float32)
        }
        if learns == "segmentation":
            self.shapes["label"] = (2, 1, *plan.patch_size), torch.uint8
        elif learns == "classification":
            self.shapes["target"] = (2, 1 if module.kind == "ce" else module.n_outputs), torch.float32
        else:
            self.shapes["target"] = self.shapes["image"]
            self.shapes["class"] = (2,), torch.int64

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(STEPS):
            yield {name: torch.empty(s, dtype=kind, device=GPU) for name, (s, kind) in self.shapes.items()}


def fit(
    make: Make,
    folder: Path,
    *,
    precision: str = "bf16-mixed",
    optimization: OptimizationSettings = ADAM,
    ema: float = 0.0,
) -> PretendedGPU:
    """Train an epoch as main.py does, but without evaluation and checkpoints."""
    module = make(optimization)
    logger, save = RunLogger(folder / "log.json"), SaveSettings(save_ckpt=False)
    with pretended_gpu() as gpu:
        devices: dict[str, Any] = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "precision": "32-true"}
        settings = FitSettings(epochs=1, ema=ema)
        trainer = build_trainer(
            devices | {"strategy": OnPretendedGPU(gpu)},
            "disabled",
            folder,
            [*training_callbacks(settings, save, module, logger, folder), Busy(gpu)],
            **training_arguments(settings, optimization),
        )
        if precision != "32-true":
            trainer.strategy.precision_plugin = MixedPrecision(precision, "cuda")  # type: ignore[arg-type]
        trainer.fit(module, train_dataloaders=Batches(module))
    assert {p.device for p in module.parameters()} == {GPU}
    assert gpu.calls.count("aten.convolution_backward") >= 2 * (STEPS - 2)
    assert not gpu.copied
    return gpu


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's kernels cannot be launched; what is kept for a device is made anew, and is not left to others."""
    monkeypatch.setattr(fused, "_triton_builds", lambda: False)
    supervision.places_on.cache_clear()
    yield
    supervision.places_on.cache_clear()


def segmentation(
    optimization: OptimizationSettings, *, plan: Plan | None = None, regions: Regions | None = None,
    loss: str = "default", focal: bool = False, **network: Any,
) -> SegmentationModule:  # fmt: skip
    plan = plan or make_plan((8, 12, 16), channels=2)
    given = Given((LossSettings(loss=loss), VoxelTermSettings(focal=focal)))
    made = build_loss(given, regions)
    settings = SegmentationNetworkSettings(**(SMALL | network))
    outputs = len(regions.names) if regions else plan.n_class
    net = build_network(plan, settings, out_channels=outputs)
    windows = SlidingWindow(patch_size=plan.patch_size)
    return SegmentationModule(plan, net, settings, windows=windows, loss=made, optimization=optimization)


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("loss", [*LOSSES, "focal"])
def test_segmentation_by_every_loss(tmp_path: Path, loss: str, regions: Regions | None) -> None:
    name, focal = ("ce", True) if loss == "focal" else (loss, False)
    fit(lambda o: segmentation(o, loss=name, focal=focal, regions=regions, deep_supervision=True), tmp_path)


@pytest.mark.parametrize(
    "network",
    [
        {"layout": "NDHWC", "deep_supervision": True},
        {"norm": "batch", "res_block": True},
        {"norm": "group"},
        {"encoder": "genesis", "filters": None},
        {"encoder": "resnet10", "filters": None},
        {"encoder": "resnet10", "filters": None, "conv_seg": True},
    ],
    ids=lambda network: "-".join(map(str, network.values())),
)
def test_segmentation_by_every_kind_of_network(tmp_path: Path, network: dict[str, Any]) -> None:
    fit(lambda o: segmentation(o, plan=make_plan((16, 32, 32)), **network), tmp_path)


def test_segmentation_of_slices(tmp_path: Path) -> None:
    fit(lambda o: segmentation(o, plan=make_plan((32, 32)), deep_supervision=True), tmp_path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("clip", [0.0, 12.0])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_optimiser_and_precision(tmp_path: Path, optimizer: Any, clip: float, precision: str) -> None:
    optimization = OptimizationSettings(optimizer=optimizer, gradient_clip_val=clip, scheduler="polynomial")
    if clip and precision == "16-mixed":  # PyTorch's scaler asks whether to step, unless the optimiser is fused
        with pytest.raises(Waits, match="_local_scalar_dense"):
            fit(segmentation, tmp_path, precision=precision, optimization=optimization)
    else:
        fit(segmentation, tmp_path, precision=precision, optimization=optimization)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    """They lie where the weights do, which batch norm's counters follow."""
    averages: list[AveragedWeights] = []
    start = AveragedWeights.on_fit_start

    def on_fit_start(self: AveragedWeights, trainer: Any, pl_module: Any) -> None:
        monkeypatch.setattr(swa_utils.AveragedModel, "to", lambda model, _: trainer.strategy.gpu.moved(model))
        averages.append(self)
        start(self, trainer, pl_module)

    def make(optimization: OptimizationSettings) -> SegmentationModule:
        module = segmentation(optimization, norm=norm)
        copied = copy.deepcopy(module)  # which fake tensors cannot be
        monkeypatch.setattr(swa_utils, "deepcopy", lambda _: copied)
        return module

    monkeypatch.setattr(AveragedWeights, "on_fit_start", on_fit_start)
    gpu = fit(make, tmp_path, ema=0.9)
    (average,) = averages
    assert average._average_model is not None
    assert {tensor.device for tensor in average._average_model.state_dict().values()} == {GPU}
    assert gpu.calls.count("aten._foreach_lerp_") == STEPS - 2


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_classification(tmp_path: Path, kind: Any) -> None:
    table = ClassTable(names=("a", "b"), targets={"case": np.zeros(1 if kind == "ce" else 2, np.float32)})

    def make(optimization: OptimizationSettings) -> ClassificationModule:
        plan = make_plan((8, 12, 16))
        return ClassificationModule(
            plan, NetworkSettings(**SMALL), table, windows=SlidingWindow(patch_size=plan.patch_size),
            settings=ClassificationSettings(labels_csv=tmp_path, loss=kind), optimization=optimization,
        )  # fmt: skip

    fit(make, tmp_path)


@pytest.mark.parametrize("further", [{}, {"outputs": 2, "z_score": (-775.8, 251.9)}], ids=["plain", "published"])
def test_models_genesis(tmp_path: Path, further: dict[str, Any]) -> None:
    fit(
        lambda o: RestorationModule(make_plan((8, 12, 16)), NetworkSettings(**SMALL), optimization=o, **further),
        tmp_path,
    )


@pytest.mark.parametrize("exp", ["en", "en_de"])
def test_semantic_genesis(tmp_path: Path, exp: Any) -> None:
    fit(
        lambda o: SemanticModule(
            make_plan((8, 12, 16)), NetworkSettings(**SMALL, norm="batch"), n_class=5, exp=exp, optimization=o
        ),
        tmp_path,
    )


def test_the_validation_of_pre_training() -> None:
    """The first batch waits for the slices of the picture."""
    settings = NetworkSettings(**SMALL, norm="batch")
    module = SemanticModule(make_plan((8, 12, 16)), settings, n_class=5)
    with pretended_gpu() as gpu, torch.no_grad():
        batches = list(Batches(gpu.moved(module).eval()))
        module.validation_step(batches[0], 0)
        with gpu.busy():
            for index in range(1, STEPS):
                module.validation_step(batches[index], index)
        assert module._sums.device == module._class_sums.device == GPU


def test_the_autoencoder(tmp_path: Path) -> None:
    def make(optimization: OptimizationSettings) -> AutoencoderModule:
        plan, choice = make_plan((8, 12, 16)), NetworkChoice(network=NetworkSettings(**SMALL, norm="batch"))
        return AutoencoderModule(plan, choice, network=build_autoencoder(plan, choice), optimization=optimization)

    fit(make, tmp_path)


@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
def test_the_fused_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Its operator's registered fake stands in for Triton's kernels, in the network's forward and backward pass."""
    monkeypatch.setattr(fused, "_triton_builds", lambda: True)
    monkeypatch.setattr(fused._Eager, "apply", fused._operator)
    gpu = fit(lambda o: segmentation(o, layout=layout, deep_supervision=True), tmp_path)
    assert gpu.calls.count("genesis.norm_act") == gpu.calls.count("genesis.norm_act_backward") > 0
    assert not {"aten.native_batch_norm", "aten.leaky_relu"} & set(gpu.calls)


def test_a_step_that_reads_its_loss_is_found(tmp_path: Path) -> None:
    def make(optimization: OptimizationSettings) -> RestorationModule:
        module = RestorationModule(make_plan((8, 12, 16)), NetworkSettings(**SMALL), optimization=optimization)
        logged = module.logged
        module.logged = lambda loss, patches: logged(loss + 0 * loss.item(), patches)  # type: ignore[method-assign]
        return module

    with pytest.raises(Waits, match="_local_scalar_dense"):
        fit(make, tmp_path)
