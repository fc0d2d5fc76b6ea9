"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

Schedule = Literal["none", "cosine", "one_cycle", "polynomial", "step", "exponential", "plateau"]
Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How weights are updated; ``learning_rate`` is the peak of the schedule."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 8e-4
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: Schedule = "none"
    fused: bool = True
    """One kernel for all weights. Such a step unscales gradients itself: too late where mixed precision clips them."""
    step_epochs: int = 40
    """Epochs between the halvings of schedule "step"."""
    plateau_epochs: int = 20
    """Evaluations without a lower loss before schedule "plateau" halves."""
    lr_decay: float = 0.99
    """Factor an epoch of schedule "exponential"."""
    new_layer_lr_mult: float = 1.0
    """Learning rate of layers without pre-trained weights, over that of the others (MedicalNet: 100)."""


def parameter_groups(network: nn.Module, new: Collection[str], settings: OptimizationSettings) -> list[dict[str, Any]]:
    """All parameters as one group, or the transferred ones and, at their own learning rate, the new ones.

    Args:
        network: with parameters that require gradients.
        new: names of parameters that took nothing from pre-trained weights; empty where there were none.
        settings: whose ``new_layer_lr_mult`` is 1 for one group.
    """
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    fresh = [name for name in trained if name in new]
    if settings.new_layer_lr_mult == 1 or not fresh:
        return [{"params": list(trained.values())}]
    learning_rate = settings.learning_rate * settings.new_layer_lr_mult
    return [
        {"params": [p for name, p in trained.items() if name not in new]},
        {"params": [trained[name] for name in fresh], "lr": learning_rate},
    ]


def build_optimizer(parameters: Parameters, settings: OptimizationSettings) -> Optimizer:
    """AdamW, or SGD with momentum."""
    if settings.optimizer == "adam":
        return AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=settings.fused)
    return SGD(
        parameters,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=settings.fused,
    )


def optimizer_and_schedule(
    parameters: Parameters, settings: OptimizationSettings, total_steps: int
) -> OptimizerLRScheduler:
    """What ``configure_optimizers`` returns.

    Schedules "step" and "exponential" go by epochs, "plateau" by the logged "loss" of the validation, the others
    by steps.
    """
    optimizer = build_optimizer(parameters, settings)
    if settings.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=settings.plateau_epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "loss", "strict": False}}
    if settings.schedule == "step":
        schedule, interval = LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch // settings.step_epochs)), "epoch"
    elif settings.schedule == "exponential":
        schedule, interval = LambdaLR(optimizer, lambda epoch: settings.lr_decay**epoch), "epoch"
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
