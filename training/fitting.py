"""Run a training, and say at its start, at its end and where Ctrl-C stops it what its user wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.settings import Settings, above, at_least, below_one, setting
from nets.weights.own import read_own
from runtime.affinity import Binding, Mode
from runtime.devices import LONGEST_WAIT
from runtime.dllogger_backend import RunLogger
from runtime.hardware import Hardware
from runtime.memory import keep_freed_memory
from training.averaging import AveragedWeights
from training.callbacks import EpochLog, LateEvaluation, Profile
from training.checkpoint import LAST, SaveSettings, WholeFiles
from training.learning import LearningModule, TrainingError
from training.optimization import STRETCHED, OptimizationSettings
from training.stopping import AgreedStop
from training.synchronise import SynchronisedNorms


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """How long to train, and what accompanies it"""

    error = TrainingError

    epochs: int = setting(
        1000,
        "the most epochs",
        flags=("--max_epochs",),
        check=above(0),
        kept=lambda run: run.get("scheduler") in STRETCHED,
    )
    min_epochs: int = setting(0, "the least epochs, whatever --patience says", check=at_least(0), kept=False)
    patience: int = setting(
        100, "evaluations without a better Dice (or loss) before training stops", check=above(0), kept=False
    )
    skip_first_n_eval: int = setting(0, "epochs at the start without evaluation", check=at_least(0), kept=False)
    val_every: int = setting(1, "epochs between evaluations", check=above(0), kept=False)
    ema: float = setting(
        0.0, "decay of the averaged weights that evaluate and predict use, such as 0.99; 0: off", check=below_one
    )
    sync_batchnorm: bool = setting(False, "batch norm statistics over all GPUs", kept=False)
    profile: bool = setting(False, "trace a few steps and print the ten costliest operations", kept=False)

    def faults(self) -> list[str]:
        if self.min_epochs > self.epochs:
            return [f"--min_epochs {self.min_epochs} is more than --epochs {self.epochs}"]
        return []

    def evaluates(self, first: int = 0) -> bool:
        """Whether any epoch from ``first`` on ends in an evaluation."""
        start = max(self.skip_first_n_eval, first)
        return any((epoch + 1) % self.val_every == 0 for epoch in range(start, self.epochs))


@dataclass(frozen=True, kw_only=True)
class LimitSettings(Settings):
    """Less than everything, for a quick look."""

    test_batches: int = setting(
        0,
        "limits the cases of an evaluation, or the batches of a pass with --benchmark; 0: no limit",
        check=at_least(0),
        kept=False,
    )


def training_callbacks(
    settings: FitSettings, save: SaveSettings, module: LearningModule, logger: RunLogger, results: Path
) -> list[Callback]:
    """Log, progress bar, early stopping, averaged weights, and the last and the best checkpoint.

    Args:
        module: names the number that decides which epoch is best.
        results: where the pictures go, and the checkpoints unless ``save`` has a folder.
    """
    mode = "max" if module.higher_is_better else "min"
    callbacks: list[Callback] = [
        EpochLog(logger, results),
        RichProgressBar(),
        LateEvaluation(settings.skip_first_n_eval, settings.val_every),
        EarlyStopping(  # Dice is nan where no validation case has any class
            module.monitor,
            patience=settings.patience,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=False,
        ),
    ]
    if settings.ema:
        callbacks.append(AveragedWeights(settings.ema))
    if settings.profile:
        callbacks.append(Profile(results))
    if save.save_ckpt:
        folder = save.folder(results)
        best = {"filename": module.best_name, "monitor": module.monitor, "mode": mode}
        last = {"filename": Path(LAST).stem, "enable_version_counter": False}
        for kind in (best, last):  # at the end of an epoch, after its record, so that either can be resumed from
            callbacks.append(ModelCheckpoint(folder, save_on_train_epoch_end=True, **kind))
    return callbacks


def training_arguments(settings: FitSettings, optimization: OptimizationSettings) -> dict[str, Any]:
    """What the Trainer of a training is told; see :func:`build_trainer`."""
    return {
        "max_epochs": settings.epochs,
        "min_epochs": settings.min_epochs,
        "check_val_every_n_epoch": settings.val_every,
        "gradient_clip_val": optimization.gradient_clip_val or None,
        "sync_batchnorm": settings.sync_batchnorm,
    }


def build_trainer(
    devices: Mapping[str, Any],
    affinity: Mode,
    results: Path,
    callbacks: list[Callback],
    *,
    sync_batchnorm: bool = False,
    **further: Any,
) -> Trainer:
    """The Trainer of training and evaluation.

    Args:
        devices: accelerator, devices, num_nodes, strategy and precision, as Trainer takes them.
        affinity: how ranks are bound to CPU cores.
        results: the run's folder.
        callbacks: besides that of the binding.
        sync_batchnorm: batch norm by the statistics of all GPUs.
        further: arguments of Trainer, such as :func:`training_arguments`.

    Raises:
        TrainingError: for synchronised batch norm over several processes on the CPU, which PyTorch has not.
    """
    cpu, strategy = devices["accelerator"] == "cpu", devices["strategy"]
    if cpu:
        keep_freed_memory()
    if sync_batchnorm and cpu and devices["devices"] * devices["num_nodes"] > 1:
        raise TrainingError("--sync_batchnorm is for GPUs: leave it out where --gpus is 0")
    if strategy == "ddp":  # the graph is the same in every step, and no rank is given up while others still predict
        strategy = DDPStrategy(gradient_as_bucket_view=True, static_graph=True, timeout=LONGEST_WAIT)
        callbacks = [AgreedStop(), *callbacks]
    return Trainer(
        **{**devices, "strategy": strategy},
        num_sanity_val_steps=0,
        benchmark=True,
        use_distributed_sampler=False,
        callbacks=[Binding(affinity), *callbacks],
        plugins=[WholeFiles(), *[SynchronisedNorms()] * sync_batchnorm],
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        enable_model_summary=False,
        default_root_dir=results,
        **further,
    )


def fit(
    trainer: Trainer,
    module: LearningModule,
    data: LightningDataModule,
    settings: FitSettings,
    save: SaveSettings,
    *,
    results: Path,
    batch_size: int,
    cases: tuple[int, int],
    resume: Path | None,
) -> None:
    """Train to the end; the loader's workers are stopped however it comes.

    Args:
        results: the run's folder.
        batch_size: patches of a rank's step.
        cases: how many train and how many validate.
        resume: the checkpoint to continue from; None begins anew.

    Raises:
        KeyboardInterrupt: at Ctrl-C, with the line that says how to go on.
    """
    trainer.callbacks.insert(0, StartLine(settings, batch_size, cases))  # type: ignore[attr-defined]
    last = save.folder(results) / LAST if save.save_ckpt else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except SystemExit as end:  # Lightning's own end after Ctrl-C
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        if not trainer.is_global_zero:
            raise SystemExit(130) from None
        raise KeyboardInterrupt(_stopped(trainer, last)) from None
    finally:
        data.teardown("fit")
    if last is not None:
        _say_end(trainer, last)


class StartLine(Callback):
    """What is about to be trained, on what and for how long, in one line; and whether it will be evaluated at all."""

    def __init__(self, settings: FitSettings, batch_size: int, cases: tuple[int, int]) -> None:
        self.settings, self.batch_size, self.cases = settings, batch_size, cases

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LearningModule) -> None:  # type: ignore[override]
        print(describe_run(trainer, pl_module, self.batch_size, self.cases), flush=True)
        if not self.settings.evaluates(trainer.current_epoch):
            score = "Dice" if pl_module.monitor == "dice" else "validation loss"
            print(
                f"note: no {score} will be computed, and no best checkpoint kept: --skip_first_n_eval "
                f"{self.settings.skip_first_n_eval} with --val_every {self.settings.val_every} leaves none of the "
                f"{self.settings.epochs} epochs to evaluate",
                flush=True,
            )


def describe_run(trainer: Trainer, module: LearningModule, batch_size: int, cases: tuple[int, int]) -> str:
    """Network, patch, batch, cases, steps, epochs, device and precision."""
    network = module.network
    encoder = getattr(network, "encoder", None) or network.net.encoder  # Semantic Genesis has two heads on its net
    filters = " ".join(map(str, encoder.channels))
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    patch = "x".join(map(str, module.plan.patch_size))
    ranks = f" on each of {trainer.world_size} ranks" if trainer.world_size > 1 else ""
    begin = f", from epoch {trainer.current_epoch} on" if trainer.current_epoch else ""
    last = module.network_settings.network.layout == "NDHWC"
    hardware = Hardware(device=module.device, precision=str(trainer.precision), channels_last=last)
    return (
        f"{module.learns}: {module.network_settings.encoder} with filters {filters}, {millions:.2f} M parameters; "
        f"patch {patch}, batch {batch_size}{ranks}; {cases[0]} training and {cases[1]} validation cases; "
        f"{trainer.num_training_batches} steps an epoch, {trainer.max_epochs} epochs{begin}; {hardware}"
    )


def _stopped(trainer: Trainer, last: Path | None) -> str:
    where = f"stopped in epoch {trainer.current_epoch}"
    if last is None or not last.is_file():
        return f"{where}, before any checkpoint: the same command begins anew"
    return f"{where}; --resume_training continues from the end of epoch {read_own(last).epoch} ({last})"


@rank_zero_only
def _say_end(trainer: Trainer, last: Path) -> None:
    monitored = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c.monitor]  # type: ignore[attr-defined]
    best = next((last.parent / Path(c.best_model_path).name for c in monitored if c.best_model_path), None)
    print(f"best checkpoint: {best or 'none, for no epoch was evaluated'}; last: {last}", flush=True)
