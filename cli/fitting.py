"""Run a training, and say at its start, at its end and where Ctrl-C stops it what its user wants to know."""

from __future__ import annotations

from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cli.assembly import LAST
from data_loading.module import PatchDataModule
from nets.weights.own import read_own
from settings import MainSettings
from training.learning import LearningModule

PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}


def fit(
    settings: MainSettings,
    trainer: Trainer,
    module: LearningModule,
    data: PatchDataModule,
    cases: tuple[int, int],
    resume: Path | None,
) -> None:
    """Train to the end; the loader's workers are stopped however it comes.

    Args:
        cases: how many train and how many validate.
        resume: the checkpoint to continue from; None begins anew.

    Raises:
        KeyboardInterrupt: at Ctrl-C, with the line that says how to go on.
    """
    if not settings.benchmark:
        trainer.callbacks.insert(0, StartLine(settings, cases))  # type: ignore[attr-defined]
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except SystemExit as end:  # Lightning's own end after Ctrl-C
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        if not trainer.is_global_zero:
            raise SystemExit(130) from None
        raise KeyboardInterrupt(_stopped(settings, trainer)) from None
    finally:
        data.teardown("fit")
    if settings.save_ckpt and not settings.benchmark:
        _end_line(settings, trainer)


class StartLine(Callback):
    """What is about to be trained, on what and for how long, in one line; and whether it will be evaluated at all."""

    def __init__(self, settings: MainSettings, cases: tuple[int, int]) -> None:
        self.settings, self.cases = settings, cases

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LearningModule) -> None:  # type: ignore[override]
        print(describe_run(self.settings, trainer, pl_module, self.cases), flush=True)
        first, every, end = self.settings.skip_first_n_eval, self.settings.val_every, self.settings.epochs
        if not any((epoch + 1) % every == 0 for epoch in range(max(first, trainer.current_epoch), end)):
            score = "Dice" if pl_module.monitor == "dice" else "validation loss"
            print(
                f"note: no {score} will be computed, and no best checkpoint kept: --skip_first_n_eval {first} with "
                f"--val_every {every} leaves none of the {end} epochs to evaluate",
                flush=True,
            )


def describe_run(settings: MainSettings, trainer: Trainer, module: LearningModule, cases: tuple[int, int]) -> str:
    """Network, patch, batch, cases, steps, epochs, device and precision."""
    network = module.network
    encoder = getattr(network, "encoder", None) or network.net.encoder  # Semantic Genesis has two heads on its net
    filters = " ".join(map(str, encoder.channels))
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    patch = "x".join(map(str, module.plan.patch_size))
    ranks = f" on each of {trainer.world_size} ranks" if trainer.world_size > 1 else ""
    begin = f", from epoch {trainer.current_epoch} on" if trainer.current_epoch else ""
    gpu = module.device.type == "cuda"
    device = torch.cuda.get_device_name(module.device) if gpu else "CPU"
    return (
        f"{module.learns}: {module.network_settings.encoder} with filters {filters}, {millions:.2f} M parameters; "
        f"patch {patch}, batch {settings.batch_size}{ranks}; {cases[0]} training and {cases[1]} validation cases; "
        f"{trainer.num_training_batches} steps an epoch, {trainer.max_epochs} epochs{begin}; {device}, "
        f"{PRECISIONS.get(str(trainer.precision), trainer.precision)}"
    )


def _stopped(settings: MainSettings, trainer: Trainer) -> str:
    last = settings.checkpoint_folder / LAST
    where = f"stopped in epoch {trainer.current_epoch}"
    if not settings.save_ckpt or not last.is_file():
        return f"{where}, before any checkpoint: the same command begins anew"
    return f"{where}; --resume_training continues from the end of epoch {read_own(last).epoch} ({last})"


@rank_zero_only
def _end_line(settings: MainSettings, trainer: Trainer) -> None:
    folder = settings.checkpoint_folder
    monitored = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c.monitor]  # type: ignore[attr-defined]
    best = next((folder / Path(c.best_model_path).name for c in monitored if c.best_model_path), None)
    print(f"best checkpoint: {best or 'none, for no epoch was evaluated'}; last: {folder / LAST}", flush=True)
