"""Pairs of Models Genesis: the transformations where the batch lies, and what the loader brings with its workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import steady_rate
from benchmarks.gpu_check.report import Row
from cases.case import list_cases
from data_loading.dali import usable_workers
from data_loading.module import LoaderSettings
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.source import CasePatches
from pretraining.loader import RestorationLoader, restoration_loader

PATCH = (32, 64, 64)  # the published one
BATCH = 16
DRAWN = 8  # different batches of parameters


def rows(conditions: Conditions) -> Iterator[Row]:
    patch = tuple(min(side, most) for side, most in zip(PATCH, conditions.patch_size, strict=True))
    what = f"batch {BATCH} of {'x'.join(map(str, patch))}, {conditions.channels} channels"
    yield Row(
        part="genesis",
        what="transformations alone",
        value=transformed(patch, conditions),
        unit="pairs/s",
        note=f"{what}, parameters drawn beforehand",
    )
    with pairs(patch, 2 * (conditions.warmup + conditions.steps), conditions) as loader:
        stream = iter(loader)
        rate = steady_rate(lambda: next(stream), BATCH, conditions)
    note = f"{what}, {usable_workers(conditions.workers)} workers"
    if conditions.gpu and (why := GenesisCorruption(GenesisSettings()).why_not_device()):
        note += f", which corrupt on the CPU: {why}"
    yield Row(part="genesis", what="from the loader", value=rate, unit="pairs/s", note=note)


def transformed(patch: tuple[int, ...], conditions: Conditions) -> float:
    """Pairs per second of the device form, which on a CPU the compiled kernels stand in for."""
    corruption = GenesisCorruption(GenesisSettings())
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(BATCH, conditions.channels, *patch, generator=generator).to(conditions.device)
    drawn = []
    for number in range(DRAWN):
        alike = zip(
            *(corruption.draw((conditions.channels, *patch), number * BATCH + i) for i in range(BATCH)), strict=True
        )
        drawn.append([torch.from_numpy(np.stack(arrays)).to(conditions.device) for arrays in alike])
    number = 0

    def step() -> None:
        nonlocal number
        corruption.apply_device(batch, drawn[number % DRAWN])
        number += 1

    return steady_rate(step, BATCH, conditions)


def pairs(patch: tuple[int, ...], steps: int, conditions: Conditions) -> RestorationLoader:
    """The loader of a pre-training."""
    folder, plan = conditions.data()
    loading = LoaderSettings(batch_size=BATCH, num_workers=conditions.workers)
    corruption = GenesisCorruption(GenesisSettings())
    patches = CasePatches(folder, list_cases(folder), plan.in_channels)
    plan = plan.with_(patch_size=patch, mirror_axes=())
    return restoration_loader(patches, plan, loading, corruption, steps=steps, device_id=conditions.device_id)
