"""Pairs to restore: patches of preprocessed cases or of cube files, corrupted by the Genesis transformations.

On the CPU the reading worker corrupts them with compiled code; for a GPU it hands over the patch, and the
whole batch is corrupted on the device. Both draw the same parameters. The order of scans, the places and the
corruptions are a pure function of (seed, epoch, step, rank), as for every other patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from nvidia.dali import types

from cases.case import read_info
from cases.plan import Normalization, Plan
from data_loading.augmentation.effect import Node
from data_loading.dali import PipelineSpec, Port, dali_threads, usable_workers
from data_loading.errors import LoaderError
from data_loading.loader import Batch, PatchLoader
from data_loading.module import LoaderSettings, PatchDataModule, batches_identity
from data_loading.sources.reader import NOTHING, CaseReader, copy_box
from data_loading.sources.sampling import PatchSampler, draw_start
from data_loading.sources.source import SampleInfo
from pretraining.genesis.cubes import CubeError, find_cubes, open_cubes, read_cube, to_unit
from pretraining.genesis.transforms import GenesisSettings, transform_on_device, transform_pair

PATCHES_A_SCAN = 32  # of an epoch, as the published generator cuts cubes
DRAWS = 10  # places tried for a patch: nothing but padding or air teaches nothing, and its gradients explode


class Patches(Protocol):
    """Where patches in [0, 1] come from. Pickles small: the workers get a copy.

    Attributes:
        names: of the scans or files behind them; part of a run's identity.
        visits: patches that an epoch takes from each entry.
        classes: int64, the pseudo-class of each entry, or None.
    """

    names: tuple[str, ...]
    visits: int
    classes: np.ndarray | None

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        """(C, D, H, W) float32 of one entry, at a place that ``rng`` decides."""
        ...


class FolderScans:
    """The scans of a preprocessed folder, as all that learns from them without labels opens them.

    Raises:
        LoaderError: without cases.
        CaseError: for a case that cannot be read.
    """

    classes: np.ndarray | None = None

    def __init__(self, folder: Path, cases: Sequence[str], channels: int) -> None:
        if not cases:
            raise LoaderError(f"{folder}: no scans to learn from; run preprocess.py, or choose another fold")
        self.names = tuple(sorted(cases))
        self._reader = CaseReader(folder, channels, labelled=False)
        self._infos = [read_info(folder, case) for case in self.names]

    def __len__(self) -> int:
        return len(self.names)


class CasePatches(FolderScans):
    """Patches straight from the memory maps of preprocessed cases, CT or MRI, labelled or not.

    Stored intensities are mapped to [0, 1] by the range that each case's json records.
    """

    visits = PATCHES_A_SCAN

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        case = self._reader.open(self.names[index])
        for _ in range(DRAWS):
            start = draw_start(rng, case.shape_dhw, patch_dhw, NOTHING, 0.0)
            patch = to_unit(copy_box(case.image_cdhw, start, patch_dhw), self._infos[index].intensity)
            if patch.max() > patch.min():
                break
        return patch


class CubePatches:
    """Cubes of published files ``bat_<scale>_s_<rows>x<cols>x<deps>_<fold>.npy``, each one whole.

    Attributes:
        size_dhw: of a cube.

    Raises:
        CubeError: for folds without a file, files that are none, and cubes of several sizes.
    """

    visits = 1
    classes: np.ndarray | None = None

    def __init__(self, folder: Path, folds: Sequence[int]) -> None:
        self._paths = find_cubes(folder, folds)
        self.names = tuple(path.name for path in self._paths)
        shapes = [open_cubes(path).shape for path in self._paths]
        if len({shape[1:] for shape in shapes}) != 1:
            raise CubeError(f"{folder} needs cubes of one size in folds {tuple(folds)}, has {shapes}")
        rows, cols, deps = shapes[0][1:]
        self.size_dhw = (deps, cols, rows)
        self._ends = np.cumsum([shape[0] for shape in shapes])
        self._open: dict[Path, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a memory map would travel as a copy of its file

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int, rng: np.random.Generator, patch_dhw: Sequence[int]) -> np.ndarray:
        file = int(np.searchsorted(self._ends, index, side="right"))
        path = self._paths[file]
        if path not in self._open:
            self._open[path] = open_cubes(path)
        try:
            return read_cube(self._open[path], index - int(self._ends[file - 1] if file else 0))
        except CubeError as error:
            raise LoaderError(f"{path}: {error}") from error


def cube_plan(folder: Path, size_dhw: tuple[int, int, int]) -> Plan:
    """The plan of a folder of cubes: one CT channel, HU -1000 to 1000 as [0, 1], no labels."""
    unit = Normalization(scheme="ct", lower=-1000.0, upper=1000.0, mean=-1000.0, std=2000.0)
    return Plan(
        name=folder.name,
        dataset=folder.name,
        dim=3,
        channels=("CT",),
        labels=("background",),
        spacing_mm=(1.0, 1.0, 1.0),  # cubes do not tell theirs
        patch_size=size_dhw,
        normalization=(unit,),
    )


@dataclass(frozen=True, kw_only=True)
class GenesisSource:
    """The callable of DALI's external source: SampleInfo -> (corrupted, target), or the patch alone.

    Attributes:
        corrupts: corrupt here, in the worker; False leaves it to the device.
        repeats: every epoch is the first again, as validation needs.
        axes: 3, or 2 where the depth axis is dropped.
        first_step: global step of the pipeline's first batch.
    """

    patches: Patches
    sampler: PatchSampler
    settings: GenesisSettings
    corrupts: bool
    repeats: bool = False
    axes: int = 3
    first_step: int = 0

    def at(self, global_step: int) -> GenesisSource:
        """The same source for a pipeline that begins at ``global_step``."""
        return replace(self, first_step=global_step)

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        step, index = self._place(self.first_step + info.iteration), info.idx_in_batch
        rng = self.sampler.patch_generator(step, index)
        seed = _draw_seed(rng)
        patch = self.patches.read(self.sampler.case_index(step, index), rng, self.sampler.patch_dhw)
        patch = patch[:, 0] if self.axes == 2 else patch
        return transform_pair(patch, seed, self.settings) if self.corrupts else (patch,)

    def entries(self, global_step: int) -> list[int]:
        """Which entries the patches of a batch come from."""
        step = self._place(global_step)
        return [self.sampler.case_index(step, i) for i in range(self.sampler.batch_size)]

    def seeds(self, global_step: int) -> list[int]:
        """What the corruption of each patch of a batch is drawn from."""
        step = self._place(global_step)
        return [_draw_seed(self.sampler.patch_generator(step, i)) for i in range(self.sampler.batch_size)]

    def _place(self, global_step: int) -> int:
        return global_step % self.sampler.steps_per_epoch if self.repeats else global_step


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 63))


class GenesisLoader(PatchLoader):
    """Iterates over {"image": corrupted, "target"}: (N, C, *patch) float32 on the pipeline's device.

    Where the patches have classes, there is "class" too: (N,) int64.
    """

    def __init__(self, source: GenesisSource, spec: PipelineSpec, *, identity: dict[str, int | str]) -> None:
        super().__init__(source, spec, steps=source.sampler.steps_per_epoch, identity=identity)
        self._pairs = source
        if source.repeats:
            del self.sampler  # a loader to validate with keeps its own count, and Lightning must not look into it

    def __iter__(self) -> Iterator[Batch]:
        classes = self._pairs.patches.classes
        for batch in super().__iter__():
            step = self._epoch * self._steps + self._step - 1
            if not self._pairs.corrupts:
                image, target = transform_on_device(batch["target"], self._pairs.seeds(step), self._pairs.settings)
                batch = {"image": image, "target": target}
            if classes is not None:
                batch["class"] = torch.from_numpy(classes[self._pairs.entries(step)]).to(batch["image"].device)
            yield batch


def genesis_loader(
    patches: Patches,
    plan: Plan,
    loading: LoaderSettings,
    genesis: GenesisSettings,
    *,
    steps: int,
    device_id: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    repeats: bool = False,
) -> GenesisLoader:
    """Pairs of the plan's patch size.

    Args:
        loading: batch size, workers and seed.
        steps: of an epoch and rank.
        device_id: the GPU; None computes on the CPU.
        rank, world_size: global.
        repeats: see GenesisSource.
    """
    sampler = PatchSampler(
        seed=loading.seed,
        n_cases=len(patches),
        batch_size=loading.batch_size,
        steps_per_epoch=steps,
        patch_dhw=(*[1] * (3 - plan.dim), *plan.patch_size),  # type: ignore[arg-type]
        channels=plan.in_channels,
    ).for_rank(rank, world_size)
    corrupts = device_id is None
    source = GenesisSource(
        patches=patches, sampler=sampler, settings=genesis, corrupts=corrupts, repeats=repeats, axes=plan.dim
    )
    port = Port(dtype=types.DALIDataType.FLOAT, ndim=plan.dim + 1, layout="C" + "DHW"[-plan.dim :])
    spec = PipelineSpec(
        ports=(port, port) if corrupts else (port,),
        graph=_unchanged if corrupts else _to_gpu,
        names=("image", "target") if corrupts else ("target",),
        batch_size=loading.batch_size,
        sample_bytes=4 * plan.in_channels * math.prod(plan.patch_size) * (1 + corrupts),
        device_id=device_id,
        num_workers=usable_workers(loading.num_workers),
        num_threads=dali_threads(),
    )
    identity = batches_identity(loading, patches.names, steps, world_size)
    return GenesisLoader(source, spec, identity=identity)


def _unchanged(*nodes: Node) -> tuple[Node, ...]:
    return nodes


def _to_gpu(patch: Node) -> tuple[Node, ...]:
    return (patch.gpu(),)


class GenesisDataModule(PatchDataModule):
    """Pairs to train and to validate on; the latter are the same in every epoch.

    An epoch validates in proportion to what it trains, and sees each validation scan or cube at least once.

    Args:
        plan: its patch size and channels.
        device_id: the GPU that the batches are made on; None for the CPU.
    """

    def __init__(
        self,
        train: Patches,
        validation: Patches,
        plan: Plan,
        settings: LoaderSettings,
        genesis: GenesisSettings,
        device_id: int | None = None,
    ) -> None:
        super().__init__(settings, device_id)
        self.train, self.validation, self.plan, self.genesis = train, validation, plan, genesis

    def train_dataloader(self) -> GenesisLoader:
        return self._loader(self.train, self.steps()[0], repeats=False)

    def val_dataloader(self) -> GenesisLoader:
        return self._loader(self.validation, self.steps()[1], repeats=True)

    def steps(self) -> tuple[int, int]:
        """Training and validation steps of an epoch, of one rank."""
        batch = self.settings.batch_size * self.ranks.get("world_size", 1)
        train = self.settings.steps or math.ceil(self.train.visits * len(self.train) / batch)
        once = math.ceil(len(self.validation) / batch)
        return train, max(once, math.ceil(train * len(self.validation) / len(self.train)))

    def _loader(self, patches: Patches, steps: int, *, repeats: bool) -> GenesisLoader:
        loader = genesis_loader(
            patches,
            self.plan,
            self.settings,
            self.genesis,
            steps=steps,
            device_id=self.device_id,
            repeats=repeats,
            **self.ranks,
        )
        return self.kept(loader)
