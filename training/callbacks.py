"""What accompanies a run: the epoch log with its picture, the benchmark's stop-watch, the profiler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.files import whole_file
from runtime.dllogger_backend import RunLogger
from runtime.latency import StepClock, latency_units, summarise_latencies


class EpochLog(Callback):
    """One DLLogger record an epoch, and ``progress.png`` of losses and the score so far.

    The history travels in the checkpoint, so a resumed run draws the whole picture, and its log holds each
    epoch once: records that the checkpoint does not know are dropped. So no record is lost, for it is written
    before the epoch's checkpoints. The share of the training time that was spent waiting for data is the
    difference of two readings of the loader's ``wait_seconds``.
    """

    def __init__(self, logger: RunLogger, folder: Path) -> None:
        self.logger = logger
        self.folder = folder
        self.history: list[dict[str, float]] = []
        self._started = self._seconds = 0.0
        self._waited_before = self._waited = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        self._waited_before = _loader(trainer).wait_seconds

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._seconds = time.perf_counter() - self._started
        self._waited = _loader(trainer).wait_seconds - self._waited_before

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        record = {"Train Loss": float(trainer.callback_metrics["train_loss"]), **pl_module.evaluation()}
        record["Data wait %"] = 100 * self._waited / self._seconds
        record["Train seconds"] = self._seconds
        record["Learning rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.history.append({"Epoch": trainer.current_epoch, **record})
        self.logger.log(step=trainer.current_epoch, data={name: round(value, 6) for name, value in record.items()})
        self.logger.flush()
        draw_progress(self.history, self.folder / "progress.png")

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]
        if self.history:
            self.logger.drop_after(int(self.history[-1]["Epoch"]))


def _loader(trainer: Trainer) -> Any:
    """The patch loader, whose ``wait_seconds`` counts what the steps waited for data."""
    return trainer.train_dataloader


def draw_progress(history: list[dict[str, float]], path: Path) -> None:
    """Losses on the left axis and, where there is one, the score in percent on the right one, by epoch."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.add_subplot()
    left.set(xlabel="epoch", ylabel="loss")
    for name, style in (("Train Loss", "C0-"), ("Val Loss", "C1-")):
        points = [(record["Epoch"], record[name]) for record in history if name in record]
        if points:
            left.plot(*zip(*points, strict=True), style, label=name)
    for score in ("Dice", "Accuracy"):
        points = [(record["Epoch"], record[score]) for record in history if score in record]
        if points:
            right = left.twinx()
            right.set(ylabel=f"{score} [%]", ylim=(0, 100))
            right.plot(*zip(*points, strict=True), "C2-", label=score)
            best = max(points, key=lambda point: point[1])
            right.set_title(f"best {score} {best[1]:.2f} at epoch {best[0]:.0f}")
    figure.legend(loc="outside lower center", ncols=3)
    with whole_file(path, keep_suffix=True) as temporary:
        figure.savefig(temporary, dpi=110)


class LateEvaluation(Callback):
    """No evaluation in the first epochs, then every ``every``-th (``--skip_first_n_eval``, ``--val_every``)."""

    def __init__(self, first: int, every: int) -> None:
        self.first, self.every = first, every

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        early = trainer.current_epoch < self.first
        trainer.check_val_every_n_epoch = trainer.current_epoch + 2 if early else self.every


class StopWatch(Callback):
    """Throughput and latency of training steps: epoch 0 warms up, epoch 1 is measured after ``warmup`` steps.

    A step lasts from one batch's end to the next one's, so that waiting for data counts. On a GPU the host's time in
    the loader passes while the device does the step before, as in a training that nobody measures; what the device
    had to wait for shows in the throughput.
    """

    def __init__(self, warmup: int, batch_size: int) -> None:
        self.warmup, self.batch_size = warmup, batch_size
        self._waited = 0.0  # for data, when the measurement began
        self.result: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = StepClock(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.tick()
        if trainer.current_epoch == 0 or batch_idx + 1 <= max(self.warmup, 1):
            self._clock.restart()
            self._waited = _loader(trainer).wait_seconds

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if times := self._clock.seconds():
            span, images = self._clock.span, self.batch_size * trainer.world_size
            self.result = summarise_latencies("train", times, images, span=span)
            self.result["data_wait_train"] = 100 * (_loader(trainer).wait_seconds - self._waited) / span


def describe_latency(logger: RunLogger, mode: str) -> None:
    """Units of :func:`runtime.latency.summarise_latencies`, as DLLogger's metadata."""
    for name, unit in latency_units(mode).items():
        logger.metadata(name, {"unit": unit, "format": ":.2f"})


class Profile(Callback):
    """Traces five training steps after three: ``trace.json`` for a viewer, the ten costliest operations printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        schedule = torch.profiler.schedule(wait=1, warmup=2, active=5, repeat=1)
        self.profiler = torch.profiler.profile(schedule=schedule, on_trace_ready=self._report, profile_memory=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.profiler.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.profiler.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.profiler.stop()

    @rank_zero_only
    def _report(self, profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=60))
