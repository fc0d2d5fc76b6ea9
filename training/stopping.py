"""How several processes stop together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from runtime.devices import LONGEST_WAIT


class AgreedStop(Callback):
    """Ranks ask each other before every step whether one was told to stop (SIGTERM), on the CPU.

    Lightning asks too, but of the first rank alone and by a tensor on the GPU, whose reading waits for all that the GPU
    was given to do. A rank that stopped without the others would leave them waiting for its gradients.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's question."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        self._group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: self.agree(told=bool(getattr(trainer, "received_sigterm", False)))

    def agree(self, *, told: bool) -> None:
        """Raises SIGTERMException on every rank where one was told to stop."""
        stops = torch.tensor([int(told)])
        dist.all_reduce(stops, op=dist.ReduceOp.MAX, group=self._group)
        if stops.item():
            raise SIGTERMException
