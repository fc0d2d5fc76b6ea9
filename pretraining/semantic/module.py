"""Semantic Genesis: a network learns to tell patterns apart and to restore them.

Haghighi et al. 2020, doi:10.1007/978-3-030-59710-8_14. The published head ends in a softmax whose
logarithm the loss takes; here the cross entropy comes from the logits, which is the same number without
the underflow.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cases.plan import Plan
from nets.build import Chosen, build_two_headed
from pretraining.restoration import RestorationModule
from training.optimization import OptimizationSettings

Experiment = Literal["en", "en_de"]


class SemanticModule(RestorationModule):
    """Learns pseudo-classes, and with ``exp`` "en_de" to restore the corrupted cubes too.

    Args:
        n_class: pseudo-classes.
        exp: "en" trains the encoder and the classification head alone, "en_de" the decoder with them.
        lambda_rec, lambda_cls: weights of the squared error and of the cross entropy under "en_de".

    The other arguments are those of RestorationModule.
    """

    learns = "semantic"

    def __init__(
        self,
        plan: Plan,
        network_settings: Chosen,
        *,
        n_class: int,
        exp: Experiment = "en_de",
        lambda_rec: float = 1.0,
        lambda_cls: float = 0.01,
        optimization: OptimizationSettings | None = None,
        z_score: tuple[float, ...] | None = None,
        run_settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            plan,
            network_settings,
            network=build_two_headed(plan, network_settings, n_class),
            optimization=optimization,
            z_score=z_score,
            run_settings=run_settings,
            n_outputs=n_class,
        )
        self.n_class, self.exp = n_class, exp
        self.lambda_rec, self.lambda_cls = lambda_rec, lambda_cls
        self._class_sums = torch.zeros(3, dtype=torch.float64)  # cross entropy, right ones, patches
        if exp == "en":
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name.startswith(("net.encoder.", "head.")))

    def restore_and_classify(self, corrupted: Tensor) -> tuple[Tensor | None, Tensor]:
        """(N, C, *patch) to the restored patch in (0, 1), None under "en", and (N, n_class) class logits."""
        logits, scores = self(self.scaled(corrupted), decoder=self.exp == "en_de")
        return None if logits is None else torch.sigmoid(logits.float()), scores.float()

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        restored, scores = self.restore_and_classify(batch["image"])
        loss = F.cross_entropy(scores, batch["class"])
        if restored is not None:
            loss = self.lambda_cls * loss + self.lambda_rec * F.mse_loss(restored, batch["target"])
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        restored, scores = self.restore_and_classify(batch["image"])
        entropy = F.cross_entropy(scores, batch["class"], reduction="sum")
        right = (scores.argmax(1) == batch["class"]).sum()
        sums = torch.stack([entropy, right, entropy.new_full((), len(scores))]).double()
        self._class_sums = self._class_sums.to(sums.device) + sums
        if restored is not None:
            self.count(restored, batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        totals = self.trainer.strategy.reduce(self._class_sums.to(self.device), reduce_op="sum").cpu()
        self._class_sums = torch.zeros_like(self._class_sums)  # on one device the totals are the sums themselves
        entropy, accuracy = float(totals[0] / totals[2]), 100 * float(totals[1] / totals[2])
        loss, further = entropy, {"Class loss": entropy, "Pseudo-class accuracy %": accuracy}
        if self.exp == "en_de":
            error, share = self.restoration()
            loss = self.lambda_rec * error + self.lambda_cls * entropy
            further |= {"Restoration loss": error, "Spread %": 100 * share}
        self.conclude(loss, {"Val Loss": loss, **further}, "Min Val Loss")
        self.log("accuracy", accuracy, prog_bar=True)
