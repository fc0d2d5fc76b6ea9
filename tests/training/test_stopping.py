"""Several processes that are told to stop."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_lightning.utilities.exceptions import SIGTERMException

from training.stopping import AgreedStop


def rank(number: int, port: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    trainer: Any = SimpleNamespace(world_size=2, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()))
    AgreedStop().on_train_start(trainer, None)  # type: ignore[arg-type]
    ask = trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor  # as Lightning does before each step
    ask()
    trainer.received_sigterm = number == 1
    with pytest.raises(SIGTERMException):
        ask()
    dist.destroy_process_group()


def test_one_that_is_told_stops_all() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(rank, (port,), nprocs=2)


def test_one_process_asks_nobody() -> None:
    loop = SimpleNamespace()
    trainer: Any = SimpleNamespace(world_size=1, fit_loop=SimpleNamespace(epoch_loop=loop))
    AgreedStop().on_train_start(trainer, None)  # type: ignore[arg-type]
    assert not vars(loop)


def test_the_question_is_lightnings() -> None:
    """The name that is replaced is one that Lightning asks by."""
    from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

    assert callable(_TrainingEpochLoop._broadcast_sigterm_tensor)
    assert torch.distributed.is_gloo_available()
