"""Models Genesis as a method: restore corrupted patches of a preprocessed folder, or cubes of published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cases.plan import Plan
from cases.settings import Given, Settings, at_least, setting
from pretraining.base import Method, Pretraining, Run
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.sampling import GenesisError, GenesisSettings
from pretraining.genesis.source import CasePatches, CubePatches, cube_plan
from pretraining.restoration import RestorationModule, mean_and_deviation
from pretraining.source import Patches


@dataclass(frozen=True, kw_only=True)
class GenesisMethodSettings(Settings):
    """Models Genesis: what is restored."""

    error: ClassVar[type[ValueError]] = GenesisError
    refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("patterns", "classes"), "--patterns and --classes are for --method semantic"
    )

    cubes: Path | None = setting(
        None, "folder of cube files, bat_*_<fold>.npy, instead of a preprocessed folder", kept=False
    )
    cube_folds: tuple[int, ...] = setting((0, 1, 2, 3, 4), "folds of --cubes to learn from")
    cube_val_folds: tuple[int, ...] = setting((5, 6), "folds of --cubes to validate on")
    outputs: int = setting(1, "outputs for each channel, each of which restores it", check=at_least(1))
    z_score: tuple[float, ...] | None = setting(
        None,
        "mean and standard deviation in HU: the corrupted patch, in [0, 1], becomes -1000 to 1000 HU and is z-scored",
        check=mean_and_deviation,
    )
    patch_size: tuple[int, ...] | None = setting(
        None, "(D, H, W) or (H, W) of the patches, instead of the plan's", check=at_least(1)
    )

    def faults(self) -> list[str]:
        if set(self.cube_folds) & set(self.cube_val_folds):
            return ["--cube_folds and --cube_val_folds share folds: validation would see training cubes"]
        return []


class Genesis(Method):
    """Zhou et al. 2021, doi:10.1016/j.media.2020.101840."""

    settings = (GenesisSettings, GenesisMethodSettings)

    def build(self, given: Given, run: Run) -> Pretraining:
        own = given[GenesisMethodSettings]
        plan, train, validation = _cubes(own, own.cubes) if own.cubes is not None else _cases(own, run)
        module = RestorationModule(plan, run.network, outputs=own.outputs, z_score=own.z_score, **run.for_module())
        corruption = GenesisCorruption(given[GenesisSettings])
        return Pretraining(module=module, train=train, validation=validation, corruption=corruption)


def _cubes(own: GenesisMethodSettings, folder: Path) -> tuple[Plan, Patches, Patches]:
    train, validation = (CubePatches(folder, folds) for folds in (own.cube_folds, own.cube_val_folds))
    return cube_plan(folder, train.size_dhw), train, validation


def _cases(own: GenesisMethodSettings, run: Run) -> tuple[Plan, Patches, Patches]:
    plan = run.unmirrored_plan()
    if own.patch_size is not None:
        plan = plan.with_(patch_size=own.patch_size)
    train, validation = (CasePatches(run.folder, part, plan.in_channels) for part in run.load_fold())
    return plan, train, validation
