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

from cases.settings import Settings, SettingsError, above, at_least, setting

Schedule = Literal["none", "cosine", "one_cycle", "polynomial", "step", "exponential", "plateau"]
Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
STRETCHED = ("cosine", "one_cycle", "polynomial")  # schedules whose shape follows from the number of epochs
MONITORED = "loss"  # of the validation, which schedule "plateau" follows


class OptimizationError(SettingsError):
    """Settings under which nothing can be learnt."""


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings(Settings):
    """How weights are updated"""

    error = OptimizationError

    optimizer: Literal["adam", "sgd"] = setting("adam", "AdamW, or SGD with Nesterov momentum")
    learning_rate: float = setting(0.0008, "peak learning rate", check=above(0))
    momentum: float = setting(0.99, "of SGD")
    nesterov: bool = setting(True, "Nesterov's momentum in SGD")
    weight_decay: float = setting(0.0001, "weight decay", check=at_least(0))
    gradient_clip_val: float = setting(0.0, "largest norm of the gradient; 0: no limit", check=at_least(0))
    scheduler: Schedule = setting(
        "none", "learning rate over the run; the bare flag is cosine with warm-up", const="cosine"
    )
    step_epochs: int = setting(40, "epochs after which --scheduler step halves the learning rate", check=above(0))
    lr_decay: float = setting(
        0.99, "factor on the learning rate, every epoch of --scheduler exponential", check=above(0)
    )
    plateau_epochs: int = setting(
        20,
        "evaluations without a lower loss before --scheduler plateau halves the learning rate; not for segmentation, "
        "which is judged by Dice",
        check=above(0),
    )
    new_layer_lr_mult: float = setting(
        1.0, "learning rate of layers that took nothing of --pretrained, over that of the others", check=above(0)
    )

    @property
    def fused(self) -> bool:
        """One kernel for all weights. It unscales gradients itself: too late where mixed precision clips them."""
        return not self.gradient_clip_val


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
    if settings.scheduler == "plateau":
        plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=settings.plateau_epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": MONITORED, "strict": False}}
    if settings.scheduler == "step":
        schedule, interval = LambdaLR(optimizer, lambda epoch: 0.5 ** (epoch // settings.step_epochs)), "epoch"
    elif settings.scheduler == "exponential":
        schedule, interval = LambdaLR(optimizer, lambda epoch: settings.lr_decay**epoch), "epoch"
    else:
        kind = settings.scheduler
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
