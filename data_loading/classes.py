"""Training and validation data of a classification: patches with the classes of their scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nvidia.dali import types

from cases.plan import Plan
from data_loading.augmentation.effect import Node
from data_loading.augmentation.pipeline import Augmentation
from data_loading.dali import Port
from data_loading.loader import PatchLoader
from data_loading.module import (
    SLICES,
    FoldDataModule,
    LoaderSettings,
    SliceSettings,
    batches_identity,
    patch_source,
    patch_spec,
)
from data_loading.sources.classes import ClassSource, ClassTable


def class_loader(
    folder: Path,
    plan: Plan,
    cases: Sequence[str],
    table: ClassTable,
    loading: LoaderSettings,
    augmentation: Augmentation,
    *,
    slices: SliceSettings = SLICES,
    device_id: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> PatchLoader:
    """Batches {"image": (N, C, *patch), "target": (N, 1) or (N, labels) float32} on the device; see patch_loader."""
    compiled = device_id is None
    patches = patch_source(
        folder,
        plan,
        cases,
        loading,
        augmentation,
        slices=slices,
        compiled=compiled,
        rank=rank,
        world_size=world_size,
        labelled=False,
    )
    spec = patch_spec(patches, plan, loading, device_id=device_id)
    augment = spec.graph

    def graph(*nodes: Node) -> tuple[Node, ...]:
        *patch, target = nodes
        return *augment(*patch), target if device_id is None else target.gpu()

    spec = replace(
        spec, ports=(*spec.ports, Port(dtype=types.DALIDataType.FLOAT, ndim=1)), names=("image", "target"), graph=graph
    )
    source = ClassSource(patches=patches, targets=tuple(table.targets[case] for case in patches.cases))
    steps = patches.sampler.steps_per_epoch
    return PatchLoader(source, spec, steps=steps, identity=batches_identity(loading, patches.cases, steps, world_size))


class ClassDataModule(FoldDataModule):
    """Patches with their scan's classes to train on, whole scans to validate on; scans without a class are left out.

    Args:
        table: the classes; the others as FoldDataModule's.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        train_cases: Sequence[str],
        val_cases: Sequence[str],
        table: ClassTable,
        settings: LoaderSettings,
        augmentation: Augmentation,
        *,
        slices: SliceSettings = SLICES,
        device_id: int | None = None,
    ) -> None:
        train, val = ([case for case in cases if case in table.targets] for cases in (train_cases, val_cases))
        super().__init__(folder, plan, train, val, settings, augmentation, slices=slices, device_id=device_id)
        self.table = table

    def train_dataloader(self) -> PatchLoader:
        loader = class_loader(
            self.folder,
            self.plan,
            self.train_cases,
            self.table,
            self.settings,
            self.augmentation,
            slices=self.slices,
            device_id=self.device_id,
            **self.ranks,
        )
        return self.kept(loader)
