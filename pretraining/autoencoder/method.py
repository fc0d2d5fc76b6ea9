"""The autoencoder of whole scans as a method; it ends in their features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from cases.case import list_cases
from cases.settings import Given, Settings, at_least, setting
from pretraining.autoencoder.module import AutoencoderModule, save_features
from pretraining.autoencoder.network import build_autoencoder
from pretraining.autoencoder.source import ScanPatches
from pretraining.base import Method, Pretraining, Run
from pretraining.corruption import Unchanged

SCAN_DHW = (64, 128, 128)  # what the published autoencoder sees of a whole scan


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings(Settings):
    """The autoencoder of whole scans."""

    refuses: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("cubes", "outputs"), "--cubes and --outputs are for --method genesis"),
        **dict.fromkeys(("patterns", "classes"), "--patterns and --classes are for --method semantic"),
    }

    patch_size: tuple[int, ...] | None = setting(
        None, "(D, H, W) that a whole scan is resized to; None: 64 128 128, as published", check=at_least(1)
    )


class ScanAutoencoder(Method):
    """Haghighi et al. 2020, doi:10.1007/978-3-030-59710-8_14: what tells which scans look alike."""

    settings = (AutoencoderSettings,)
    dims = (3,)

    def build(self, given: Given, run: Run) -> Pretraining:
        plan = run.unmirrored_plan().with_(patch_size=given[AutoencoderSettings].patch_size or SCAN_DHW)
        train, validation = (ScanPatches(run.folder, part, plan.in_channels) for part in run.load_fold())
        network = replace(run.network, network=replace(run.network.network, norm="batch"))
        module = AutoencoderModule(plan, network, network=build_autoencoder(plan, network), **run.for_module())
        return Pretraining(module=module, train=train, validation=validation, corruption=Unchanged())

    def finish(self, work: Pretraining, run: Run, trainer: Trainer) -> None:
        """``features.npy`` of every scan of the folder, by the best epoch's weights; rank 0 alone."""
        if not trainer.is_global_zero:
            return
        kept = [c.best_model_path for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c.monitor]  # type: ignore[attr-defined]
        save_features(
            run.results / "features.npy",
            work.module.network,
            Path(kept[0]) if kept and kept[0] else None,
            ScanPatches(run.folder, list_cases(run.folder), work.module.plan.in_channels),
            work.module.plan.patch_size,
            trainer.strategy.root_device,
        )
