"""``--compile`` and ``--cuda_graphs``: training steps that ask less of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from cases.settings import Settings, setting
from training.graphs import GraphedSteps
from training.learning import LearningModule, TrainingError


@dataclass(frozen=True, kw_only=True)
class CompileSettings(Settings):
    """Compilation"""

    error = TrainingError

    compile: bool = setting(
        False, "training steps run the network as torch.compile makes it, which the first step does", kept=False
    )

    cuda_graphs: bool = setting(
        False,
        "on one GPU, forward pass, loss and backward pass of a training step are CUDA graphs, captured at its start",
        kept=False,
    )

    def faults(self) -> list[str]:
        return ["give --compile or --cuda_graphs, not both"] if self.compile and self.cuda_graphs else []

    def callbacks(self) -> list[Callback]:
        """What a Trainer needs for it."""
        return [CompiledSteps()] * self.compile + [GraphedSteps()] * self.cuda_graphs


class CompiledSteps(Callback):
    """Compiles the network of a training, for the one shape that all its patches have.

    Evaluation keeps the plain network, whose last windows come in smaller batches. Only the forward function is
    wrapped, not the module: names in checkpoints, averaged weights and what DDP sees are those of a plain run.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LearningModule) -> None:  # type: ignore[override]
        from torch._dynamo.exc import TorchDynamoException  # a second, that only --compile pays

        compiled = torch.compile(pl_module.network.forward, dynamic=False)

        def forward(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except TorchDynamoException as error:
                raise TrainingError(
                    f"torch.compile could not compile the network: leave out --compile ({str(error).splitlines()[0]})"
                ) from error

        pl_module.compiled = forward
