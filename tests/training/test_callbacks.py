"""What accompanies a run: the benchmark's stop-watch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.made_device import MadeDevice, MadeLoader, made_trainer
from training.callbacks import StopWatch


def fit(watch: StopWatch, made: MadeDevice, loader: MadeLoader, step_seconds: float) -> None:
    """Two epochs as Lightning runs them."""
    trainer, module = made_trainer(loader), SimpleNamespace(device=made.device)
    watch.on_train_start(trainer, module)  # type: ignore[arg-type]
    for epoch in range(2):
        trainer.current_epoch = epoch
        for step, batch in enumerate(loader):
            made.queue(step_seconds)
            watch.on_train_batch_end(trainer, module, None, batch, step)  # type: ignore[arg-type]
        watch.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]


def measured(monkeypatch: pytest.MonkeyPatch, load_seconds: float) -> dict[str, float]:
    made = MadeDevice()
    made.install(monkeypatch)
    watch = StopWatch(warmup=10, batch_size=2)
    fit(watch, made, MadeLoader(made, 60, load_seconds), 0.0087)
    return watch.result


def test_loading_is_free_where_the_device_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    free, loaded = measured(monkeypatch, 0.0), measured(monkeypatch, 0.005)
    for result in (free, loaded):
        assert result["latency_train_mean"] == pytest.approx(8.7)  # 13.7 where each step is waited for
        assert result["latency_train_99"] == pytest.approx(8.7)
        assert result["throughput_train"] == pytest.approx(2 / 0.0087)
    assert free["data_wait_train"] == 0
    assert loaded["data_wait_train"] == pytest.approx(100 * 5 / 8.7)  # the host's time in the loader, as ever


def test_a_slow_loader_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    result = measured(monkeypatch, 0.02)
    assert result["throughput_train"] == pytest.approx(2 / 0.02)
    assert result["data_wait_train"] == pytest.approx(100)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_first_steps_of_the_measured_epoch_are_left_out(warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    watch = StopWatch(warmup=warmup, batch_size=1)
    loader: Any = SimpleNamespace(wait_seconds=0.0)
    trainer, module = made_trainer(loader), SimpleNamespace(device=torch.device("cpu"))
    watch.on_train_start(trainer, module)  # type: ignore[arg-type]
    for epoch in range(2):
        trainer.current_epoch = epoch
        for step in range(6):
            now += 1.0 if epoch == 0 else 2.0**step
            watch.on_train_batch_end(trainer, module, None, None, step)  # type: ignore[arg-type]
        watch.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    kept = [2.0**step for step in range(max(warmup, 1), 6)]
    assert watch.result["latency_train_mean"] == pytest.approx(1000 * sum(kept) / len(kept))
