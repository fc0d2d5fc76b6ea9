"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["none", "cosine", "one_cycle", "polynomial", "step"]


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How weights are updated; ``learning_rate`` is the peak of the schedule."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 8e-4
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: Schedule = "none"
    step_epochs: int = 40
    """Epochs between the halvings of schedule "step"."""


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizationSettings) -> Optimizer:
    """AdamW, or SGD with momentum; one fused kernel for all weights."""
    if settings.optimizer == "adam":
        return AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    return SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def optimizer_and_schedule(
    parameters: Iterable[nn.Parameter], settings: OptimizationSettings, total_steps: int
) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns. Schedule "step" halves by epochs, the others go by steps."""
    optimizer = build_optimizer(parameters, settings)
    if settings.schedule == "step":
        schedule, interval = LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch // settings.step_epochs)), "epoch"
    else:
        kind = settings.schedule
        schedule, interval = LambdaLR(optimizer, lambda step: learning_rate_factor(kind, step, total_steps)), "step"
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}


def learning_rate_factor(schedule: Schedule, step: int, total: int) -> float:
    """Share of the peak learning rate at a step of ``total``; a pure function, so resuming needs no state.

    "cosine": 250 steps (at most a tenth of the run) of linear warm-up, then half a cosine to 0.
    "one_cycle": from 1/25 up to 1 within 0.3 of the run, then down to 1e-4, both along half a cosine
    (Smith and Topin 2018, arXiv:1708.07120). "polynomial": (1 - step/total)^0.9 as nnU-Net decays.
    """
    done = min(step / max(total, 1), 1.0)
    if schedule == "cosine":
        warmup = min(250, max(total // 10, 1))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if schedule == "one_cycle":
        return _half_cosine(1 / 25, 1.0, done / 0.3) if done < 0.3 else _half_cosine(1.0, 1e-4, (done - 0.3) / 0.7)
    if schedule == "polynomial":
        return (1 - done) ** 0.9
    return 1.0


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
