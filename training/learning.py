"""What every kind of learning shares: log, optimiser, best epoch, and what a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from cases.plan import Plan
from cases.settings import SettingsError
from nets.build import Chosen
from nets.choice import as_choice
from training.checkpoint import Kind, describe
from training.optimization import MONITORED, OptimizationSettings, optimizer_and_schedule, parameter_groups


class TrainingError(SettingsError):
    """A run that cannot begin, or that cannot go on."""


class LearningModule(LightningModule):
    """A network that learns. Kinds of learning add :meth:`training_loss` and end an evaluation by :meth:`conclude`.

    Args:
        plan: of the cases.
        network: what learns.
        network_settings: what rebuilds it, with the plan and ``n_outputs``.
        n_outputs: outputs of the network.
        optimization: optimiser and schedule.
        run_settings: the command's settings as JSON-able values; kept in the checkpoint.

    Attributes:
        new_layers: parameters without pre-trained weights, where others have some.
        compiled: what training steps run in the network's place, with its weights; None: the network.
        graphed: what training steps call in the place of :meth:`training_loss`; None: that itself.
    """

    learns: ClassVar[Kind]
    monitor: ClassVar[str] = "loss"  # of the validation, the lower the better
    higher_is_better: ClassVar[bool] = False

    def __init__(
        self,
        plan: Plan,
        network: nn.Module,
        network_settings: Chosen,
        *,
        n_outputs: int,
        optimization: OptimizationSettings | None,
        run_settings: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.network: Any = network
        self.network_settings = as_choice(network_settings)
        self.n_outputs = n_outputs
        self.optimization = optimization or OptimizationSettings()
        if self.optimization.scheduler == "plateau" and self.monitor != MONITORED:
            raise TrainingError(
                f"--scheduler plateau follows the loss of the validation; a {self.learns} is judged by {self.monitor}"
            )
        self.run_settings = run_settings or {}
        self.new_layers: frozenset[str] = frozenset()
        self.compiled: Callable[..., Any] | None = None
        self.graphed: Callable[[dict[str, Tensor]], Tensor] | None = None
        self.best, self.best_epoch = -math.inf if self.higher_is_better else math.inf, 0
        self._evaluation: dict[str, float] = {}

    @property
    def best_name(self) -> str:
        """Of the best checkpoint's file: the epoch, and the number that decided."""
        return f"{self.learns}-{{epoch}}-{{{self.monitor}:.5f}}"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network answers; in training steps as :attr:`compiled` computes it."""
        network = self.compiled if self.training and self.compiled is not None else self.network
        return network(*args, **kwargs)

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar, of a batch: what training makes small. It depends on the batch and the network's weights alone."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.training_loss(batch) if self.graphed is None else self.graphed(batch)
        return self.logged(loss, len(batch["image"]))

    def logged(self, loss: Tensor, patches: int) -> Tensor:
        """The loss of a training step, counted into the epoch's mean without waiting for the device."""
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=patches)
        return loss

    def on_train_epoch_start(self) -> None:
        self._evaluation = {}

    def on_train_epoch_end(self) -> None:
        """Raises TrainingError where the epoch's mean loss is no finite number; the checkpoint before it stays."""
        if not math.isfinite(self.trainer.callback_metrics["train_loss"].item()):
            raise TrainingError(
                f"the loss is no longer a finite number in epoch {self.current_epoch}: lower --learning_rate or set "
                "--gradient_clip_val 12; the last checkpoint is from before, --resume_training continues from it"
            )

    def conclude(self, value: float, record: dict[str, float], best_name: str) -> None:
        """End an evaluation.

        Args:
            value: decides which epoch is best; logged as ``monitor``.
            record: names and values for DLLogger.
            best_name: the name of the best value so far.
        """
        if value > self.best if self.higher_is_better else value < self.best:
            self.best, self.best_epoch = value, self.current_epoch
        self._evaluation = {**record, best_name: self.best, "Best epoch": self.best_epoch}
        self.log(self.monitor, value, prog_bar=True)

    def evaluation(self) -> dict[str, float]:
        """DLLogger's names and values of this epoch's evaluation; empty where there was none."""
        return self._evaluation

    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = int(self.trainer.estimated_stepping_batches)
        groups = parameter_groups(self.network, self.new_layers, self.optimization)
        return optimizer_and_schedule(groups, self.optimization, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= describe(self.learns, self.plan, self.network_settings, self.n_outputs, self.run_settings)
        checkpoint["best"] = {"value": self.best, "epoch": self.best_epoch}
        checkpoint["new_layers"] = sorted(self.new_layers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best, self.best_epoch = checkpoint["best"]["value"], checkpoint["best"]["epoch"]
        self.new_layers = frozenset(checkpoint["new_layers"])  # before configure_optimizers asks
