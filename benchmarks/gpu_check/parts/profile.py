"""Copies and synchronisations of a step, which the host would wait in: the goal is none.

PyTorch's profiler writes down every call into CUDA. Those of threads that run PyTorch's operators are counted, forward
and backward; DALI's own threads may wait as they like. On a CPU only reads of single values show.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.profiler import ProfilerActivity, record_function

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import whole_scan
from benchmarks.gpu_check.report import Row
from cases.case import list_cases
from cli import building
from data_loading.module import LoaderSettings
from nets.choice import NetworkChoice
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.source import CasePatches
from pretraining.loader import RestorationDataModule
from pretraining.restoration import RestorationModule

ROOT = Path(__file__).resolve().parents[3]
SPAN = "gpu check"
STEPS = 5
SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize")
READS = "aten::_local_scalar_dense"  # .item() and its kin
SHOWN = 3  # places that are named


def rows(conditions: Conditions) -> Iterator[Row]:
    yield from counted("a training step", training(conditions), STEPS, conditions)
    yield from counted("a step of Genesis", genesis(conditions), STEPS, conditions)
    yield from counted("a whole scan", scan(conditions), 1, conditions)


@dataclass
class Calls:
    """What a span of the trace holds, and the lines of ours that waited, as far as PyTorch saw them."""

    synchronisations: int = 0
    to_host: int = 0
    pageable: int = 0
    reads: int = 0
    places: Counter[str] = field(default_factory=Counter)


def counted(what: str, calls: Calls, steps: int, conditions: Conditions) -> Iterator[Row]:
    """Rows of one step."""
    numbers = {
        "synchronisations": calls.synchronisations,
        "copies to the host": calls.to_host,
        "copies from or to pageable memory": calls.pageable,
    }
    note = ", ".join(f"{place} ({count})" for place, count in calls.places.most_common(SHOWN))
    if not conditions.gpu:
        numbers, note = {"reads of a value": calls.reads}, "on a CPU they cost nothing"
    for name, count in numbers.items():
        goal = 0.0 if conditions.gpu else None
        per = f"of {what}"
        yield Row(part="profile", what=f"{name} {per}", value=count / steps, goal=goal, better="lower", note=note)


@contextmanager
def watched(conditions: Conditions) -> Iterator[Calls]:
    """Counts what happens within; the counts are there at the end."""
    calls = Calls()
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * conditions.gpu]
    with torch.profiler.profile(activities=activities) as profiler, record_function(SPAN), waits(conditions, calls):
        yield calls
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        count(json.loads(path.read_text(encoding="utf-8"))["traceEvents"], calls)


@contextmanager
def waits(conditions: Conditions, calls: Calls) -> Iterator[None]:
    """Notes the lines of Python at which PyTorch waits for the device."""
    if not conditions.gpu:
        yield
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in said:
        if "synchroniz" in str(warning.message):
            path = Path(warning.filename)
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-2:])
            calls.places[f"{shown}:{warning.lineno}"] += 1


def count(events: Sequence[Mapping[str, Any]], calls: Calls) -> None:
    """Add what a trace holds between begin and end of :data:`SPAN`."""
    (span,) = (event for event in events if event.get("name") == SPAN and event.get("cat") == "user_annotation")
    within = [
        event for event in events if event.get("ph") == "X" and span["ts"] <= event["ts"] <= span["ts"] + span["dur"]
    ]
    ours = {event["tid"] for event in within if event.get("cat") == "cpu_op"}
    runtime = [e for e in within if e.get("cat") in ("cuda_runtime", "cuda_driver") and e["tid"] in ours]
    started = {event["args"].get("correlation") for event in runtime if "args" in event}
    calls.synchronisations += sum(event["name"] in SYNCHRONISATIONS for event in runtime)
    calls.reads += sum(event["name"] == READS for event in within)
    for event in events:  # a copy may be done after the span in which it was asked for
        if event.get("cat") == "gpu_memcpy" and event.get("args", {}).get("correlation") in started:
            calls.to_host += "DtoH" in event["name"]
            calls.pageable += "Pageable" in event["name"]


class Watch(Callback):
    """Watches the last :data:`STEPS` of an epoch, with the loading between them."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.calls = Calls()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        left = int(trainer.num_training_batches) - batch_idx - 1
        if left == STEPS:
            self._watching = watched(self.conditions)
            self.calls = self._watching.__enter__()
        elif left == 0:
            self._watching.__exit__(None, None, None)


def fitted(conditions: Conditions, module: LightningModule, data: LightningDataModule, trainer: Trainer) -> Calls:
    """Train an epoch; what its last steps did."""
    try:
        trainer.fit(module, datamodule=data)
    finally:
        data.teardown("fit")
    return next(callback for callback in trainer.callbacks if isinstance(callback, Watch)).calls  # type: ignore[attr-defined]


def training(conditions: Conditions) -> Calls:
    """Of main.py's training, loader and all."""
    given = conditions.given("train", "--train_batches", str(conditions.warmup + STEPS + 1))
    plan, cases = building.training_plan(given), building.training_cases(given)
    trainer = building.plain_trainer(given, [Watch(conditions)], max_epochs=1, limit_val_batches=0)
    data = building.build_data(given, plan, cases, trainer)
    return fitted(conditions, building.build_module(given, plan), data, trainer)


def genesis(conditions: Conditions) -> Calls:
    """Of a pre-training on the same patches."""
    given = conditions.given("train", "--train_batches", str(conditions.warmup + STEPS + 1))
    folder, plan = conditions.data()
    plan = plan.with_(mirror_axes=())
    patches = CasePatches(folder, list_cases(folder), plan.in_channels)
    trainer = building.plain_trainer(given, [Watch(conditions)], max_epochs=1, limit_val_batches=0)
    corruption = GenesisCorruption(GenesisSettings())
    data = RestorationDataModule(patches, patches, plan, given[LoaderSettings], corruption, conditions.device_id)
    return fitted(conditions, RestorationModule(plan, NetworkChoice.of(given)), data, trainer)


def scan(conditions: Conditions) -> Calls:
    """Of a sliding window whose scores stay on the device."""
    step, _ = whole_scan(conditions)
    step()
    with watched(conditions) as calls:
        step()
    return calls
