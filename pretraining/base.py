"""What a pre-training method brings, written for whoever adds one.

A method is a subclass of :class:`Method` with two parts: ``settings``, the groups that it reads, whose fields become
flags; and ``build``, which makes of them a :class:`Pretraining`: the module that learns, the patches that it learns
from and validates on, and how they are corrupted. The loader, the trainer and the checkpoints are the same for all.

    patches     pretraining.source.Patches: where patches come from. genesis.source.CasePatches cuts them out of a
                preprocessed folder and serves most methods.
    corruption  pretraining.corruption.Corruption: a patch and a seed to (image, target), NumPy only, since it runs in
                the loader's workers. A method whose corruption pays on the GPU gives it a device form too.
    module      pretraining.restoration.RestorationModule or a subclass: from a batch {"image", "target"} to the loss.

``main.py --exec_mode pretrain --method file.py:Masked`` runs one without touching the project; a line in
``pretraining.METHODS`` gives it a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning import Trainer

from cases.plan import Plan
from cases.settings import Given, Settings
from nets.choice import NetworkChoice
from pretraining.corruption import Corruption
from pretraining.restoration import RestorationModule
from pretraining.source import Patches
from training.optimization import OptimizationSettings


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a command hands to whatever method it runs.

    Attributes:
        folder: of the preprocessed cases.
        results: where results go.
        fold: the fold that validates.
        load_plan: reads the folder's plan; a method that learns from other files never asks for it.
        load_fold: names of the fold's training and validation cases.
        network: what builds it.
        optimization: optimiser and schedule.
        record: the command's settings as JSON-able values, for the checkpoint.
    """

    folder: Path
    results: Path
    fold: int
    load_plan: Callable[[], Plan]
    load_fold: Callable[[], tuple[list[str], list[str]]]
    network: NetworkChoice
    optimization: OptimizationSettings
    record: Mapping[str, Any] = field(default_factory=dict)

    def unmirrored_plan(self) -> Plan:
        """The folder's plan, without mirroring: where a corruption mirrors, it does so by itself."""
        return self.load_plan().with_(mirror_axes=())

    def for_module(self) -> dict[str, Any]:
        """What every module takes: ``optimization`` and ``run_settings``."""
        return {"optimization": self.optimization, "run_settings": dict(self.record)}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What is learnt, and from what. The plan of the patches is the module's."""

    module: RestorationModule
    train: Patches
    validation: Patches
    corruption: Corruption


class Method:
    """Base of the methods.

    Attributes:
        settings: groups of settings that it reads; ``given[Group]`` finds them.
        dims: dimensions of the network that it is for.
    """

    settings: ClassVar[tuple[type[Settings], ...]] = ()
    dims: ClassVar[tuple[int, ...]] = (2, 3)

    def build(self, given: Given, run: Run) -> Pretraining:
        """The network with new weights, and its data. Nothing is read from a scan yet but its description.

        Raises:
            ValueError: one of ours, where settings and data do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build(given, run)")

    def finish(self, work: Pretraining, run: Run, trainer: Trainer) -> None:
        """What comes after the training, on every rank; nothing by default."""
