"""Training and validation data of one fold, as Lightning wants them."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from nvidia.dali import types
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.plan import Plan
from data_loading.loader import (
    LoaderError,
    PatchLoader,
    PipelineSpec,
    Port,
    dali_threads,
    finished_graph,
    patch_graph,
    usable_workers,
)
from data_loading.sources.patches import CaseReader, PatchSource
from data_loading.sources.sampling import AugmentationSettings, PatchSampler
from data_loading.volumes import VolumeLoader

Loader = TypeVar("Loader", bound=PatchLoader)


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How patches are loaded.

    Attributes:
        batch_size: patches of one rank and step; slices for a 2D plan.
        num_workers: processes that read patches, at most one a core; 0 reads in the training process.
        oversampling: probability that a patch is centred on foreground.
        steps_per_epoch: None for as many as visit each case about once.
        augmentation: None switches all of it off, mirroring too.
        mirror_axes: axes of the patch that may be mirrored; None for the plan's.
        data2d_dim: for a 2D plan: 3 fills a batch with neighbouring slices of ``nvol`` volumes, 2 draws each alone.
        constant_batch: repeat one batch without loading; shows a benchmark what loading costs.
    """

    batch_size: int = 2
    num_workers: int = 8
    oversampling: float = 0.4
    seed: int = 1
    steps_per_epoch: int | None = None
    augmentation: AugmentationSettings | None = field(default_factory=AugmentationSettings)
    mirror_axes: tuple[int, ...] | None = None
    data2d_dim: Literal[2, 3] = 3
    nvol: int = 4
    constant_batch: bool = False

    def __post_init__(self) -> None:
        faults = [
            f"{name} {value} is below {least}"
            for name, least in (("batch_size", 1), ("num_workers", 0), ("nvol", 1), ("seed", 0))
            if (value := getattr(self, name)) < least
        ]
        if not 0 <= self.oversampling <= 1:
            faults.append(f"oversampling {self.oversampling} is not a probability")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            faults.append(f"steps_per_epoch {self.steps_per_epoch} is below 1")
        if self.data2d_dim not in (2, 3):
            faults.append(f"data2d_dim {self.data2d_dim} is neither 2 nor 3")
        if faults:
            raise LoaderError("loader: " + "; ".join(faults))


def patch_loader(
    folder: Path,
    plan: Plan,
    cases: Sequence[str],
    settings: LoaderSettings,
    *,
    device_id: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    labelled: bool = True,
) -> PatchLoader:
    """Batches {"image": (N, C, *patch) float32, "label": (N, 1, *patch) uint8} on the device.

    Args:
        device_id: the GPU; None computes on the CPU.
        rank, world_size: global.
        labelled: False for cases without labels: no "label", and no oversampling.

    Raises:
        LoaderError: if there are no cases; while iterating, for a case that cannot be read.
    """
    source = patch_source(
        folder, plan, cases, settings, compiled=device_id is None, rank=rank, world_size=world_size, labelled=labelled
    )
    steps = source.sampler.steps_per_epoch
    spec = patch_spec(plan, settings, compiled=device_id is None, device_id=device_id, labelled=labelled)
    identity = batches_identity(settings, source.cases, steps, world_size)
    return PatchLoader(source, spec, steps=steps, identity=identity, constant=settings.constant_batch)


def batches_identity(
    settings: LoaderSettings, names: Sequence[str], steps: int, world_size: int
) -> dict[str, int | str]:
    """What decides which batches come, as PatchLoader takes it; ``names`` of what is loaded from."""
    return {
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "world_size": world_size,
        "steps": steps,
        "cases": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
    }


def patch_source(
    folder: Path,
    plan: Plan,
    cases: Sequence[str],
    settings: LoaderSettings,
    *,
    compiled: bool,
    rank: int = 0,
    world_size: int = 1,
    labelled: bool = True,
) -> PatchSource:
    """The source of :func:`patch_loader`; ``compiled`` as in PatchSource. Raises LoaderError without cases."""
    if not cases:
        raise LoaderError(f"{folder}: no training cases; run preprocess.py, or choose another fold")
    volumes, run = batch_layout(plan, settings)
    steps = settings.steps_per_epoch or math.ceil(len(cases) / (volumes * world_size))
    sampler = patch_sampler(plan, settings, n_cases=len(cases), batch_size=volumes, steps=steps)
    return PatchSource(
        reader=CaseReader(folder, plan.in_channels, labelled=labelled),
        cases=tuple(sorted(cases)),
        sampler=sampler.for_rank(rank, world_size),
        compiled=compiled,
        axes=plan.dim,
        run=run,
    )


def batch_layout(plan: Plan, settings: LoaderSettings) -> tuple[int, int]:
    """(volumes, neighbouring slices of each) in a batch; the last volume may give fewer slices."""
    if plan.dim == 3 or settings.data2d_dim == 2:
        return settings.batch_size, 1
    volumes = min(settings.nvol, settings.batch_size)
    return volumes, math.ceil(settings.batch_size / volumes)


def patch_sampler(plan: Plan, settings: LoaderSettings, *, n_cases: int, batch_size: int, steps: int) -> PatchSampler:
    """The sampler that a plan and the settings describe, for a single rank."""
    mirror = plan.mirror_axes if settings.mirror_axes is None else settings.mirror_axes
    return PatchSampler(
        seed=settings.seed,
        n_cases=n_cases,
        batch_size=batch_size,
        steps_per_epoch=steps,
        patch_dhw=(*[1] * (3 - plan.dim), *plan.patch_size),  # type: ignore[arg-type]
        channels=plan.in_channels,
        oversampling=settings.oversampling,
        in_plane=plan.dim == 2 or plan.anisotropic,
        mirror_axes=tuple(axis + 3 - plan.dim for axis in mirror),
        augmentation=settings.augmentation or AugmentationSettings.none(),
    )


def patch_spec(
    plan: Plan, settings: LoaderSettings, *, compiled: bool, device_id: int | None, labelled: bool
) -> PipelineSpec:
    """The pipeline that belongs to a PatchSource of this plan; ``compiled`` as there."""
    layout = "C" + "DHW"[-plan.dim :]
    image, label = (
        Port(dtype=dtype, ndim=plan.dim + 1, layout=layout)
        for dtype in (types.DALIDataType.FLOAT, types.DALIDataType.UINT8)
    )
    ports, graph = (image, *[label] * labelled), finished_graph
    if not compiled:
        ports += (
            Port(dtype=types.DALIDataType.FLOAT, ndim=1),
            Port(dtype=types.DALIDataType.FLOAT, ndim=2),
            Port(dtype=types.DALIDataType.UINT32, ndim=1),
        )
        graph = patch_graph(
            shape=(plan.in_channels, *plan.patch_size),
            in_plane=plan.dim == 2 or plan.anisotropic,
            labelled=labelled,
            gpu=device_id is not None,
        )
    # For the graph a worker hands over the box under the largest rotation and scaling; nnU-Net reads 1.6 times a side.
    growth = 1.0 if compiled or settings.augmentation is None else 1.7**plan.dim
    voxels = int(np.prod(plan.patch_size))
    return PipelineSpec(
        ports=ports,
        graph=graph,
        names=("image", "label") if labelled else ("image",),
        batch_size=settings.batch_size,
        sample_bytes=int(voxels * growth * (4 * plan.in_channels + labelled)),
        device_id=device_id,
        num_workers=usable_workers(settings.num_workers),
        num_threads=dali_threads(),
    )


class PatchDataModule(LightningDataModule):
    """What all training data share: ranks from the trainer, workers that are stopped, and how a run is resumed.

    A resumed run keeps the length of its epochs, for schedules count their steps. The number of GPUs may have
    changed between two epochs, and with it which patches come: that is said.

    Args:
        device_id: the GPU that the batches are made on; None for the CPU.
    """

    def __init__(self, settings: LoaderSettings, device_id: int | None) -> None:
        super().__init__()
        self.settings, self.device_id = settings, device_id
        self._loaders: list[PatchLoader] = []

    @property
    def ranks(self) -> dict[str, Any]:
        """``rank`` and ``world_size``."""
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}

    def kept(self, loader: Loader) -> Loader:
        """A loader that is stopped when the run ends."""
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        for loader in self._loaders:
            loader.close()
        self._loaders = []

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None  # it is what saves
        return {"world_size": self.trainer.world_size, "steps_per_epoch": self.trainer.num_training_batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.settings = replace(self.settings, steps_per_epoch=state["steps_per_epoch"])
        was, now = state["world_size"], self.ranks.get("world_size", 1)
        if was != now:
            _warn(
                f"warning: resumed on {now} GPUs (ranks) instead of {was}: a step takes {now} batches instead of "
                f"{was}, and from here on the patches differ from those of the uninterrupted run"
            )


@rank_zero_only
def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class FoldDataModule(PatchDataModule):
    """Cases of one fold, those that validate as whole volumes.

    Args:
        folder: a preprocessed folder.
        plan: its plan.
        train_cases, val_cases: names.
        device_id: the GPU that the batches are made on; None for the CPU.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        train_cases: Sequence[str],
        val_cases: Sequence[str],
        settings: LoaderSettings,
        device_id: int | None = None,
    ) -> None:
        super().__init__(settings, device_id)
        self.folder, self.plan = Path(folder), plan
        self.train_cases, self.val_cases = tuple(train_cases), tuple(val_cases)

    def val_dataloader(self) -> VolumeLoader:
        device = "cpu" if self.device_id is None else f"cuda:{self.device_id}"
        return VolumeLoader(self.folder, self.val_cases, self.plan.in_channels, device=device, **self.ranks)


class SegmentationDataModule(FoldDataModule):
    """Patches with their labels to train on, whole volumes to validate on."""

    def train_dataloader(self) -> PatchLoader:
        loader = patch_loader(
            self.folder, self.plan, self.train_cases, self.settings, device_id=self.device_id, **self.ranks
        )
        return self.kept(loader)
