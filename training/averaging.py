"""``--ema``: weights averaged over the steps, where the weights are."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn


class AveragedWeights(EMAWeightAveraging):
    """Lightning's averaging, whose checkpoints and validation it keeps, without its cost on a GPU.

    Lightning makes the average before the module is moved, so it stays on the CPU, and every step copies all weights
    there. This one moves with the module, and a step is one kernel over all weights that waits for nothing. Floating
    point buffers are averaged as weights are; counters are copied.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] = [], []  # floating point: averages, and what they follow
        self._counters: list[tuple[Tensor, Tensor]] = []
        self._begun = False  # what the average's own counter tells, which lies on the device

    @property
    def state_key(self) -> str:
        """Lightning's, under which earlier revisions saved its state."""
        return EMAWeightAveraging.__qualname__

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module is on its device, and a resumed run's average has been read."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        self._begun = bool(self._average_model.n_averaged > 0)
        self._pairs, self._counters = ([], []), []
        averages, followed = (_tensors(module) for module in (self._average_model.module, pl_module))
        for average, current in zip(averages, followed, strict=True):
            if average.is_floating_point():
                self._pairs[0].append(average)
                self._pairs[1].append(current)
            else:
                self._counters.append((average, current))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """After each step of the optimiser."""
        if trainer.global_step > self._latest_update_step:
            self.average()
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def average(self) -> None:
        """Bring the averages up to date: the first time they become the weights."""
        assert self._average_model is not None
        averages, followed = self._pairs
        if self._begun:
            torch._foreach_lerp_(averages, followed, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, followed)
        for average, current in self._counters:
            average.copy_(current)
        self._begun = True
        self._average_model.n_averaged += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
