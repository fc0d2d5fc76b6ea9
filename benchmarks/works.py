"""What is repeated and measured: one piece of work of each part of the program, on made-up or given data.

``benchmarks/turns.py`` runs the works of earlier revisions too: ``WORKS``, ``Work`` and the fields of ``WorkSettings``
keep their names, and a new field has a default.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import preprocess
from benchmarks.made_up import make_cases, plan_of
from cases.case import CaseError, list_cases, open_array, read_info
from cases.plan import Plan
from data_loading.augmentation.pipeline import Augmentation
from data_loading.module import LoaderSettings, patch_loader
from data_preprocessing.layouts import read_dataset
from data_preprocessing.phantom import Phantom, write_dataset
from data_preprocessing.preprocessor import run
from inference.predict import PredictSettings, predict_case
from inference.sliding_window import SlidingWindow
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.transforms import transform_pair
from training.losses.dice_ce import DiceCrossEntropy
from training.losses.supervision import DeepSupervision
from training.optimization import OptimizationSettings, build_optimizer


@dataclass(frozen=True, kw_only=True)
class WorkSettings:
    """Sizes and place of the work.

    Attributes:
        data: preprocessed folder (preprocess: a dataset's folder); None makes up scans in a temporary one.
        volume_dhw: of made-up scans.
        patch_size: of made-up plans, (D, H, W); a 2D plan takes the last two.
        channels, classes: of made-up scans.
        cases: how many are made up.
        filters: of the network; None as the plan has it.
        device_id: the GPU; None for the CPU.
    """

    data: Path | None = None
    volume_dhw: tuple[int, int, int] = (96, 112, 104)
    patch_size: tuple[int, int, int] = (64, 64, 64)
    cases: int = 8
    batch_size: int = 2
    dim: int = 3
    amp: bool = False
    filters: tuple[int, ...] | None = None
    device_id: int | None = None
    channels: int = 1
    classes: int = 3

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.device_id is None else torch.device("cuda", self.device_id)


@dataclass(frozen=True)
class Work:
    """``step`` does ``items`` of ``unit`` and returns when they are done."""

    step: Callable[[], object]
    items: int
    unit: str


@dataclass(frozen=True)
class Timing:
    """Of each repetition in seconds, and CPU seconds of all of them together."""

    seconds: list[float]
    cpu_seconds: float


def repeat(work: Work, *, warmup: int, repeats: int) -> Timing:
    """Do the work ``warmup`` times unmeasured, then ``repeats`` times."""
    for _ in range(warmup):
        work.step()
    seconds = []
    cpu = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        work.step()
        seconds.append(time.perf_counter() - start)
    return Timing(seconds, time.process_time() - cpu)


@contextmanager
def preprocessed(settings: WorkSettings) -> Iterator[tuple[Path, Plan]]:
    """The given folder and its plan, or a temporary one with made-up cases."""
    if settings.data is not None:
        yield settings.data, Plan.load(settings.data)
        return
    with tempfile.TemporaryDirectory() as temporary:
        kinds = {"channels": settings.channels, "classes": settings.classes}
        make_cases(Path(temporary), settings.volume_dhw, settings.cases, **kinds)
        plan = plan_of(settings.patch_size, **kinds)
        if settings.dim == 2:
            plan = plan.with_(dim=2, patch_size=settings.patch_size[1:], mirror_axes=(0, 1))
        plan.save(Path(temporary))
        yield Path(temporary), plan


@contextmanager
def loader(settings: WorkSettings) -> Iterator[Work]:
    """A batch with the full augmentation; read and computed in this process, whose CPU time counts."""
    loading = LoaderSettings(batch_size=settings.batch_size, num_workers=0, steps_per_epoch=10**6)
    with preprocessed(settings) as (folder, plan):
        augmentation = Augmentation.nnunet()
        batches = patch_loader(folder, plan, list_cases(folder), loading, augmentation, device_id=settings.device_id)
        with batches:
            stream = iter(batches)
            yield Work(lambda: next(stream), settings.batch_size, "samples")


@contextmanager
def preprocessing(settings: WorkSettings) -> Iterator[Work]:
    """A case from its file to stored arrays, in one process."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw = settings.data
        if raw is None:
            raw = folder / "Phantom"
            phantom = Phantom(shape_dhw=settings.volume_dhw, spacing_mm=(2.0, 0.8, 0.8), modality="CT")
            write_dataset(raw, phantom, cases=settings.cases, test_cases=0)
        if preprocess.main(["--dataset", str(raw), "--results", str(folder), "--n_jobs", "1", "--dim", "3"]):
            raise CaseError(f"{raw} holds cases that cannot be preprocessed: see above")
        plan = Plan.load(folder / f"{raw.name}_3d")
        plan = plan.with_(spacing_mm=tuple(0.9 * side for side in plan.spacing_mm))  # so that all axes are resampled
        scans = read_dataset(raw).training
        number = 0

        def step() -> None:
            nonlocal number
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                scan = scans[number % len(scans)]
                for outcome in run([scan], plan, Path(fresh), pad_to_patch=True, float16=False, jobs=1):
                    if outcome.fault:
                        raise CaseError(outcome.fault)
            number += 1

        yield Work(step, 1, "cases")


@contextmanager
def genesis(settings: WorkSettings) -> Iterator[Work]:
    """Models Genesis pairs of the patch; more than one, as a pair draws how much it does."""
    rng = np.random.default_rng(0)
    patch = np.clip(rng.normal(0.4, 0.2, (1, *settings.patch_size)), 0, 1).astype(np.float32)
    published = GenesisSettings()
    pairs = 16

    def step() -> None:
        for seed in range(pairs):  # the same ones each time
            transform_pair(patch, seed, published)

    yield Work(step, pairs, "pairs")


@contextmanager
def inference(settings: WorkSettings) -> Iterator[Work]:
    """A whole stored case to a label map on its scan's grid, by a network with random weights.

    Each ends on the CPU, so that cases do not overlap: nothing is loaded meanwhile that could.
    """
    with preprocessed(settings) as (folder, plan):
        network = build_network(plan, network_settings(settings)).to(settings.device).eval()
        windows = SlidingWindow(patch_size=plan.patch_size, batch_size=settings.batch_size)
        cases = list_cases(folder)
        if not cases:
            raise CaseError(f"{folder} holds no cases: run preprocess.py first")
        number = 0

        def predictor(batch: torch.Tensor) -> torch.Tensor:
            with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.amp):
                logits: torch.Tensor = network(batch)[0]
            return logits.float()

        def step() -> None:
            nonlocal number
            case = cases[number % len(cases)]
            wanted = PredictSettings(windows=windows)
            image, info = open_array(folder, case, "x"), read_info(folder, case)
            predict_case(image, info, predictor, wanted, device=settings.device)  # the labels end on the CPU
            number += 1

        with torch.inference_mode():
            yield Work(step, 1, "cases")


@contextmanager
def training_step(settings: WorkSettings) -> Iterator[Work]:
    """One optimiser step on a constant batch, as main.py's without its loop.

    Each is waited for, as a work's step promises, which hides no loading since there is none. What the device does with
    the next step in its queue, main.py --benchmark tells.
    """
    with preprocessed(replace(settings, cases=1)) as (folder, plan):
        network = build_network(plan, network_settings(settings)).to(settings.device)
        optimizer = build_optimizer(network.parameters(), OptimizationSettings())
        loss = DeepSupervision(DiceCrossEntropy())
        loading = LoaderSettings(batch_size=settings.batch_size, num_workers=0, steps_per_epoch=1)
        cases, augmentation = list_cases(folder), Augmentation.nnunet()
        with patch_loader(folder, plan, cases, loading, augmentation, device_id=settings.device_id) as batches:
            batch = next(iter(batches))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.amp):
            value = loss(network(batch["image"]), batch["label"])
        value.backward()
        optimizer.step()
        if settings.device.type == "cuda":
            torch.cuda.synchronize(settings.device)

    yield Work(step, settings.batch_size, "images")


def network_settings(settings: WorkSettings) -> NetworkSettings:
    """Channels-last, which is the faster layout in 3D."""
    depth = len(settings.filters) - 1 if settings.filters else 5
    return NetworkSettings(filters=settings.filters, depth=depth, layout="NDHWC" if settings.dim == 3 else "NCDHW")


WORKS: dict[str, Callable[[WorkSettings], AbstractContextManager[Work]]] = {
    "loader": loader,
    "preprocess": preprocessing,
    "genesis": genesis,
    "inference": inference,
    "step": training_step,
}
