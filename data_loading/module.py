"""Training and validation data of one fold, as Lightning wants them."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from nvidia.dali import types
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.plan import Plan
from cases.settings import Settings, at_least, setting
from data_loading.augmentation.pipeline import Augmentation
from data_loading.dali import PipelineSpec, Port, dali_threads, finished_graph, patch_graph, usable_workers
from data_loading.errors import LoaderError
from data_loading.loader import PatchLoader
from data_loading.sources.patches import PatchSource
from data_loading.sources.reader import CaseReader
from data_loading.sources.sampling import PatchSampler, PlaceSettings
from data_loading.volumes import VolumeLoader

SLICES_AT_ONCE, VOLUMES_AT_ONCE = 64, 4  # of a 2D batch, as in NVIDIA's nnU-Net
Loader = TypeVar("Loader", bound=PatchLoader)


@dataclass(frozen=True, kw_only=True)
class BatchSettings(Settings):
    """Batches of patches."""

    error = LoaderError

    batch_size: int = setting(2, "training patches per GPU; --dim 2: 64 slices", check=at_least(1))
    num_workers: int = setting(
        8,
        "reading processes per rank, at most one per core; 0 reads in the main process",
        check=at_least(0),
        kept=False,
    )
    seed: int = setting(1, "seed of weights, patches and augmentation", check=at_least(0))

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """A 2D batch of neighbouring slices is of 64."""
        slices = given.get("dim") == 2 and given.get("data2d_dim", 3) == 3
        return {"batch_size": SLICES_AT_ONCE} if slices and "batch_size" not in given else {}


@dataclass(frozen=True, kw_only=True)
class LoaderSettings(BatchSettings):
    """Loading of patches."""

    steps_per_epoch: int | None = setting(
        None,
        "steps of an epoch; None: one patch per case; in pre-training 32 per scan, or each cube once",
        check=at_least(1),
    )
    train_batches: int = setting(
        0, "limits the steps of an epoch, or of a pass with --benchmark; 0: no limit", check=at_least(0)
    )

    @property
    def steps(self) -> int | None:
        """Steps of an epoch where they are given; None: as the data say."""
        return self.train_batches or self.steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class SliceSettings(Settings):
    """Batches of slices, for 2D networks."""

    error = LoaderError

    data2d_dim: Literal[2, 3] = setting(
        3, "2D batches: 3 takes neighbouring slices of --nvol volumes, 2 takes single slices"
    )
    nvol: int = setting(
        VOLUMES_AT_ONCE, "volumes in a 2D batch; not given: at most 4 that share it evenly", check=at_least(1)
    )

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """As many volumes as share the batch evenly."""
        batch = given.get("batch_size")
        if given.get("dim") != 2 or "nvol" in given or not isinstance(batch, int) or batch < 1:
            return {}
        return {"nvol": max(n for n in range(1, VOLUMES_AT_ONCE + 1) if batch % n == 0)}


PLACES, SLICES = PlaceSettings(), SliceSettings()  # their defaults


def patch_loader(
    folder: Path,
    plan: Plan,
    cases: Sequence[str],
    loading: LoaderSettings,
    augmentation: Augmentation,
    *,
    places: PlaceSettings = PLACES,
    slices: SliceSettings = SLICES,
    device_id: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    labelled: bool = True,
    constant: bool = False,
) -> PatchLoader:
    """Batches {"image": (N, C, *patch) float32, "label": (N, 1, *patch) uint8} on the device.

    Args:
        augmentation: the effects in use; ``Augmentation()`` is none, mirroring neither.
        device_id: the GPU; None computes on the CPU.
        rank, world_size: global.
        labelled: False for cases without labels: no "label", and no oversampling.
        constant: repeat one batch without loading; shows a benchmark what loading costs.

    Raises:
        LoaderError: if there are no cases; while iterating, for a case that cannot be read.
    """
    source = patch_source(
        folder,
        plan,
        cases,
        loading,
        augmentation,
        places=places,
        slices=slices,
        compiled=device_id is None,
        rank=rank,
        world_size=world_size,
        labelled=labelled,
    )
    steps = source.sampler.steps_per_epoch
    spec = patch_spec(source, plan, loading, device_id=device_id)
    identity = batches_identity(loading, source.cases, steps, world_size)
    return PatchLoader(source, spec, steps=steps, identity=identity, constant=constant)


def batches_identity(
    loading: LoaderSettings, names: Sequence[str], steps: int, world_size: int
) -> dict[str, int | str]:
    """What decides which batches come, as PatchLoader takes it; ``names`` of what is loaded from."""
    return {
        "seed": loading.seed,
        "batch_size": loading.batch_size,
        "world_size": world_size,
        "steps": steps,
        "cases": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
    }


def patch_source(
    folder: Path,
    plan: Plan,
    cases: Sequence[str],
    loading: LoaderSettings,
    augmentation: Augmentation,
    *,
    places: PlaceSettings = PLACES,
    slices: SliceSettings = SLICES,
    compiled: bool,
    rank: int = 0,
    world_size: int = 1,
    labelled: bool = True,
) -> PatchSource:
    """The source of :func:`patch_loader`; ``compiled`` as in PatchSource. Raises LoaderError without cases."""
    if not cases:
        raise LoaderError(f"{folder}: no training cases; run preprocess.py, or choose another fold")
    volumes, run = batch_layout(plan, loading, slices)
    sampler = PatchSampler(
        seed=loading.seed,
        n_cases=len(cases),
        batch_size=volumes,
        steps_per_epoch=loading.steps or math.ceil(len(cases) / (volumes * world_size)),
        patch_dhw=(*[1] * (3 - plan.dim), *plan.patch_size),  # type: ignore[arg-type]
        channels=plan.in_channels,
        axes=plan.dim,
        oversampling=places.oversampling,
        in_plane=plan.dim == 2 or plan.anisotropic,
        mirror_axes=tuple(axis + 3 - plan.dim for axis in plan.mirror_axes),
        augmentation=augmentation,
    )
    reader = CaseReader(folder, plan.in_channels, labelled=labelled)
    shapes, half = (set(), False) if compiled else reader.survey(cases)
    return PatchSource(
        reader=reader,
        cases=tuple(sorted(cases)),
        sampler=sampler.for_rank(rank, world_size),
        compiled=compiled,
        half=half,
        box_voxels=math.prod(sampler.patch_dhw) if compiled else sampler.largest_box(shapes),
        run=run,
    )


def batch_layout(plan: Plan, loading: LoaderSettings, slices: SliceSettings) -> tuple[int, int]:
    """(volumes, neighbouring slices of each) in a batch; the last volume may give fewer slices."""
    if plan.dim == 3 or slices.data2d_dim == 2:
        return loading.batch_size, 1
    volumes = min(slices.nvol, loading.batch_size)
    return volumes, math.ceil(loading.batch_size / volumes)


def patch_spec(source: PatchSource, plan: Plan, loading: LoaderSettings, *, device_id: int | None) -> PipelineSpec:
    """The pipeline that belongs to a source of :func:`patch_source`."""
    layout, labelled, sampler = "C" + "DHW"[-plan.dim :], source.reader.labelled, source.sampler
    image = types.DALIDataType.FLOAT16 if source.half else types.DALIDataType.FLOAT
    kinds = (image, *[types.DALIDataType.UINT8] * labelled)
    ports = tuple(Port(dtype=kind, ndim=plan.dim + 1, layout=layout) for kind in kinds)
    graph, numbers = finished_graph, 0
    if not source.compiled:
        ports += tuple(Port(dtype=types.DALIDataType.FLOAT, ndim=ndim) for ndim in (1, 2))
        numbers = 1 + sampler.augmentation.width(plan.in_channels, plan.dim) + plan.dim * (plan.dim + 1)
        graph = patch_graph(
            sampler.augmentation,
            shape=(plan.in_channels, *plan.patch_size),
            in_plane=sampler.in_plane,
            labelled=labelled,
            half=source.half,
            gpu=device_id is not None,
        )
    return PipelineSpec(
        ports=ports,
        graph=graph,
        names=("image", "label") if labelled else ("image",),
        batch_size=loading.batch_size,
        sample_bytes=source.box_voxels * ((2 if source.half else 4) * plan.in_channels + labelled) + 4 * numbers,
        device_id=device_id,
        num_workers=usable_workers(loading.num_workers),
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
        return _ranks(self)

    def kept(self, loader: Loader) -> Loader:
        """A loader that is stopped when the run ends, and knows with how many others it shares the machine."""
        loader.local_ranks = self.trainer.num_devices if self.trainer else 1
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
        self.settings = replace(self.settings, steps_per_epoch=state["steps_per_epoch"], train_batches=0)
        was, now = state["world_size"], self.ranks.get("world_size", 1)
        if was != now:
            _warn(
                f"warning: resumed on {now} GPUs (ranks) instead of {was}: a step takes {now} batches instead of "
                f"{was}, and from here on the patches differ from those of the uninterrupted run"
            )


def _ranks(data: LightningDataModule) -> dict[str, Any]:
    trainer = data.trainer
    return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}


@rank_zero_only
def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class VolumeDataModule(LightningDataModule):
    """Whole volumes to evaluate on.

    Args:
        folder: a preprocessed folder.
        plan: its plan.
        val_cases: names.
        device_id: the GPU that the volumes are put on; None for the CPU.
    """

    def __init__(self, folder: Path, plan: Plan, val_cases: Sequence[str], device_id: int | None = None) -> None:
        super().__init__()
        self.folder, self.plan, self.val_cases, self.device_id = Path(folder), plan, tuple(val_cases), device_id

    def val_dataloader(self) -> VolumeLoader:
        return _volume_loader(self)


class FoldDataModule(PatchDataModule):
    """Cases of one fold, those that validate as whole volumes.

    Args:
        folder: a preprocessed folder.
        plan: its plan.
        train_cases, val_cases: names.
        settings, augmentation, places, slices: of the training patches; see patch_loader.
        device_id: the GPU that the batches are made on; None for the CPU.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        train_cases: Sequence[str],
        val_cases: Sequence[str],
        settings: LoaderSettings,
        augmentation: Augmentation,
        *,
        places: PlaceSettings = PLACES,
        slices: SliceSettings = SLICES,
        device_id: int | None = None,
    ) -> None:
        super().__init__(settings, device_id)
        self.folder, self.plan = Path(folder), plan
        self.train_cases, self.val_cases = tuple(train_cases), tuple(val_cases)
        self.augmentation, self.places, self.slices = augmentation, places, slices

    def val_dataloader(self) -> VolumeLoader:
        return _volume_loader(self)


def _volume_loader(data: VolumeDataModule | FoldDataModule) -> VolumeLoader:
    device = "cpu" if data.device_id is None else f"cuda:{data.device_id}"
    return VolumeLoader(data.folder, data.val_cases, data.plan.in_channels, device=device, **_ranks(data))


class SegmentationDataModule(FoldDataModule):
    """Patches with their labels to train on, whole volumes to validate on.

    Args:
        constant: repeat one batch without loading, for a benchmark; the others as FoldDataModule's.
    """

    def __init__(self, *args: Any, constant: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.constant = constant

    def train_dataloader(self) -> PatchLoader:
        loader = patch_loader(
            self.folder,
            self.plan,
            self.train_cases,
            self.settings,
            self.augmentation,
            places=self.places,
            slices=self.slices,
            constant=self.constant,
            device_id=self.device_id,
            **self.ranks,
        )
        return self.kept(loader)
