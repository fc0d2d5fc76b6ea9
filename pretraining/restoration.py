"""Pre-training: a network learns anatomy by restoring corrupted patches of unlabelled scans.

Models Genesis (Zhou et al. 2021, doi:10.1016/j.media.2020.101840): the mean squared error between the
sigmoid of the network's output and the patch before its corruption.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.nn import functional as F

from cases.files import whole_file
from cases.plan import Plan
from cases.settings import Settings, above, setting
from nets.build import Chosen, build_network
from training.checkpoint import Kind
from training.learning import LearningModule
from training.optimization import OptimizationSettings

FLAT = 0.1  # share of the scans' spread below which restored patches count as flat
PATIENCE_WITH_FLAT = 3  # validations in a row: a network that begins may be flat for one
SHOWN = 4  # patches of a picture


@dataclass(frozen=True, kw_only=True)
class RestorationSettings(Settings):
    """What every pre-training shares."""

    picture_every: int = setting(
        5, "epochs between pictures of original, corrupted and restored slices", check=above(0), kept=False
    )


def mean_and_deviation(value: tuple[float, ...]) -> str:
    """A check of ``z_score``: the value is a mean and a standard deviation."""
    return "" if len(value) == 2 and value[1] > 0 else "is not a mean and a standard deviation above 0"


class RestorationModule(LearningModule):
    """Learns to restore corrupted patches.

    Args:
        plan: of the scans; its patch size is what the network sees.
        network_settings: of the network to build.
        optimization: optimiser and schedule.
        outputs: outputs a channel, each of which restores it (the published nnU-Net variant has 2).
        z_score: mean and standard deviation in HU; the corrupted input, in [0, 1], is taken as HU
            -1000 to 1000 and z-scored, as the published nnU-Net variant sees it. None: it stays in [0, 1].
        run_settings: the command's settings as JSON-able values; kept in the checkpoint.
        network: another one than the plan's U-Net, such as an autoencoder, made with these settings.
        n_outputs: of that network, where it does not restore alone.
    """

    learns: ClassVar[Kind] = "restoration"

    def __init__(
        self,
        plan: Plan,
        network_settings: Chosen,
        *,
        network: nn.Module | None = None,
        optimization: OptimizationSettings | None = None,
        outputs: int = 1,
        z_score: tuple[float, ...] | None = None,
        run_settings: dict[str, Any] | None = None,
        n_outputs: int | None = None,
    ) -> None:
        channels = plan.in_channels * outputs
        super().__init__(
            plan,
            network or build_network(plan, network_settings, out_channels=channels),
            network_settings,
            n_outputs=n_outputs or channels,
            optimization=optimization,
            run_settings=run_settings,
        )
        self.outputs, self.z_score = outputs, z_score
        self.flat_evaluations = 0
        self.slices: list[np.ndarray] = []  # of the first validation batch: (original, corrupted, restored), H, W
        self._sums = torch.zeros(4, dtype=torch.float64)  # squared error, spread restored, spread target, patches

    def restore(self, corrupted: Tensor) -> Tensor:
        """(N, C, *patch) in [0, 1] to (N, C * outputs, *patch) in (0, 1), float32."""
        return torch.sigmoid(self(self.scaled(corrupted))[0].float())

    def scaled(self, corrupted: Tensor) -> Tensor:
        """What the network is shown of a patch in [0, 1]."""
        if self.z_score is None:
            return corrupted
        mean, std = self.z_score
        return (corrupted * 2000 - 1000 - mean) / std

    def error(self, restored: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """What is learnt to be small, and what validation reports: the mean squared error of every output.

        Args:
            restored: (N, C * outputs, *patch) in (0, 1).
            batch: "image" and "target", (N, C, *patch).
        """
        return F.mse_loss(restored, self._repeated(batch["target"]))

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.error(self.restore(batch["image"]), batch)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.count(self.restore(batch["image"]), batch, batch_idx)

    def count(self, restored: Tensor, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a validation batch to the sums, and keep slices of the first."""
        target = self._repeated(batch["target"])
        patches = len(target)
        error = self.error(restored, batch) * patches
        spread = [x.flatten(2).std(-1).mean(1).sum() for x in (restored, target)]
        sums = torch.stack([error, *spread, error.new_full((), patches)]).double()
        self._sums = self._sums.to(sums.device) + sums  # stays there: the next batch need not wait for this one
        if batch_idx == 0:
            three = (batch["target"], batch["image"], restored)
            self.slices = [_middle_slices(x[:SHOWN, 0]) for x in three]

    def on_validation_epoch_end(self) -> None:
        loss, share = self.restoration()
        self.conclude(loss, {"Val Loss": loss, "Spread %": 100 * share}, "Min Val Loss")

    def restoration(self) -> tuple[float, float]:
        """Mean squared error over all ranks, and the restored patches' spread as a share of the scans'.

        Warns where restored patches stay flat.
        """
        totals = self.trainer.strategy.reduce(self._sums.to(self.device), reduce_op="sum").cpu()
        self._sums = torch.zeros_like(self._sums)
        share = float(totals[1] / totals[2].clamp_min(1e-12))
        self.flat_evaluations = self.flat_evaluations + 1 if share < FLAT else 0
        if self.flat_evaluations == PATIENCE_WITH_FLAT:
            _warn(
                f"warning: epoch {self.current_epoch}: the network has collapsed. Its restored patches are flat (their "
                f"spread is {100 * share:.1f} % of the scans'), whatever it is shown. Start anew with a lower "
                f"--learning_rate (now {self.optimization.learning_rate:g}), or --optimizer adam --learning_rate 0.001"
            )
        return float(totals[0] / totals[3]), share

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["flat_evaluations"] = self.flat_evaluations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.flat_evaluations = checkpoint["flat_evaluations"]

    def _repeated(self, target: Tensor) -> Tensor:
        return target.repeat(1, self.outputs, *[1] * (target.ndim - 2)) if self.outputs > 1 else target


def _middle_slices(x_nspace: Tensor) -> np.ndarray:
    """(N, D, H, W) or (N, H, W) to (N, H, W)."""
    return (x_nspace[:, x_nspace.shape[1] // 2] if x_nspace.ndim == 4 else x_nspace).float().cpu().numpy()


@rank_zero_only
def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class RestorationPictures(Callback):
    """``restoration_epoch=<n>.png`` every few epochs: original, corrupted and restored middle slices."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        due = trainer.current_epoch % self.every == 0 or trainer.current_epoch + 1 == trainer.max_epochs
        if due and pl_module.slices:  # Semantic Genesis may learn classes alone
            path = self.folder / f"restoration_epoch={trainer.current_epoch}.png"
            draw_restoration(path, pl_module.slices)


def draw_restoration(path: Path, slices: Sequence[np.ndarray]) -> None:
    """Rows of patches; original, corrupted and restored beside each other on one grey scale, 0 to 1.

    Args:
        slices: three arrays (N, H, W).
    """
    rows = len(slices[0])
    figure = Figure(figsize=(6, 2 * rows + 0.3), dpi=110, layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False)
    for column, (title, images) in enumerate(zip(("original", "corrupted", "restored"), slices, strict=True)):
        grid[0, column].set_title(title, fontsize=9)
        for row, image in enumerate(images):
            grid[row, column].imshow(image, cmap="gray", vmin=0, vmax=1, origin="lower")
            grid[row, column].set_axis_off()
    with whole_file(path, keep_suffix=True) as temporary:
        figure.savefig(temporary)
