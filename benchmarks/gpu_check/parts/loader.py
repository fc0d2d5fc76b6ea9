"""The loader by itself: how fast it can be, and whether a device of the goals' speed would wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu_check.conditions import DEVICE_SECONDS, Conditions
from benchmarks.gpu_check.report import Row
from cases.case import list_cases
from data_loading.augmentation.pipeline import Augmentation
from data_loading.dali import usable_workers
from data_loading.module import LoaderSettings, patch_loader

TIMES = 4  # as many steps as others measure: a batch is short


def rows(conditions: Conditions) -> Iterator[Row]:
    folder, plan = conditions.data()
    steps, warmup = TIMES * conditions.steps, conditions.warmup
    loading = LoaderSettings(
        batch_size=conditions.batch_size, num_workers=conditions.workers, steps_per_epoch=2 * (warmup + steps)
    )
    made = patch_loader(
        folder, plan, list_cases(folder), loading, Augmentation.nnunet(), device_id=conditions.device_id
    )
    note = f"{usable_workers(conditions.workers)} workers, nnU-Net's augmentation, {conditions.what}"
    with made as batches:
        started = time.perf_counter()
        stream = iter(batches)
        next(stream)
        yield Row(part="loader", what="first batch after", value=time.perf_counter() - started, unit="s")
        rate = conditions.batch_size / mean_seconds(stream, steps, warmup - 1, 0.0, conditions)
        yield Row(part="loader", what="at full speed", value=rate, unit="images/s", note=note)
        before = batches.wait_seconds
        paced = mean_seconds(stream, steps, warmup, DEVICE_SECONDS, conditions)
        waited = (batches.wait_seconds - before) / (steps + warmup)
    what = f"beside a device that takes {conditions.batch_size} images in {1000 * DEVICE_SECONDS:.1f} ms"
    yield Row(
        part="loader",
        what=f"{what}: efficiency",
        value=DEVICE_SECONDS / paced,
        goal=conditions.goal("loader efficiency"),
        note=note,
    )
    yield Row(part="loader", what=f"{what}: waiting", value=100 * waited / paced, unit="%", better="lower")


def mean_seconds(
    stream: Iterator[Any], steps: int, warmup: int, device_seconds: float, conditions: Conditions
) -> float:
    """Of a step, by a consumer that is busy for ``device_seconds`` with each batch, one of which may wait in line."""
    free = start = 0.0
    for number in range(warmup + steps):
        next(stream)
        if conditions.gpu:
            torch.cuda.current_stream(conditions.device).synchronize()  # the batch is made by then
        time.sleep(max(0.0, free - time.perf_counter()))  # until the one before is done
        free = max(free, time.perf_counter()) + device_seconds
        if number + 1 <= max(warmup, 1):
            start = free
    return (free - start) / (warmup + steps - max(warmup, 1))
