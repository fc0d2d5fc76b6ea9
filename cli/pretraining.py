"""From settings to a pre-training: network, patches and transformations of each ``--method``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from cases.case import CaseError, list_cases
from cases.plan import Plan
from cli.assembly import fold_cases, load_plan, network_of, optimization_of
from pretraining.autoencoder.module import AutoencoderModule, save_features
from pretraining.autoencoder.network import Autoencoder, build_autoencoder
from pretraining.genesis.loader import CasePatches, CubePatches, Patches, cube_plan
from pretraining.genesis.transforms import GenesisSettings
from pretraining.restoration import RestorationModule, genesis_settings
from pretraining.semantic.module import SemanticModule
from pretraining.semantic.patches import PatternPatches, PublishedPatterns, ScanPatches
from pretraining.semantic.pattern_files import index_path, read_patterns
from settings import MainSettings, as_json

SCAN_DHW = (64, 128, 128)  # what the published autoencoder sees of a whole scan


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What is learnt, and from what."""

    module: RestorationModule
    train: Patches
    validation: Patches
    genesis: GenesisSettings


def pretraining_of(settings: MainSettings) -> Pretraining:
    """The pre-training of ``--method``, its network with new weights."""
    return {"genesis": _restoration, "autoencoder": _autoencoder, "semantic": _semantic}[settings.method](settings)


def _restoration(settings: MainSettings) -> Pretraining:
    """Models Genesis, from cube files or straight from a preprocessed folder."""
    train: Patches
    validation: Patches
    if settings.cubes is not None:
        train = cubes = CubePatches(settings.cubes, settings.cube_folds)
        validation = CubePatches(settings.cubes, settings.cube_val_folds)
        plan = cube_plan(settings.cubes, cubes.size_dhw)
    else:
        plan = _plan(settings)
        plan = plan.with_(patch_size=settings.patch_size) if settings.patch_size else plan
        train_cases, val_cases = fold_cases(settings)
        train = CasePatches(settings.folder, train_cases, plan.in_channels)
        validation = CasePatches(settings.folder, val_cases, plan.in_channels)
    module = RestorationModule(
        plan,
        network_of(settings),
        optimization=optimization_of(settings),
        outputs=settings.outputs,
        z_score=settings.z_score,
        run_settings=as_json(settings),
    )
    genesis = genesis_settings(settings.methods, settings.genesis or ())
    return Pretraining(module=module, train=train, validation=validation, genesis=genesis)


def _autoencoder(settings: MainSettings) -> Pretraining:
    """Whole scans, nothing corrupted."""
    plan = _plan(settings).with_(patch_size=settings.patch_size or SCAN_DHW)
    train, validation = (ScanPatches(settings.folder, part, plan.in_channels) for part in fold_cases(settings))
    chosen = network_of(settings)
    network = replace(chosen, network=replace(chosen.network, norm="batch"))
    module = AutoencoderModule(
        plan,
        network,
        network=build_autoencoder(plan, network),
        optimization=optimization_of(settings),
        run_settings=as_json(settings),
    )
    return Pretraining(module=module, train=train, validation=validation, genesis=GenesisSettings(methods=()))


def _semantic(settings: MainSettings) -> Pretraining:
    """Cubes of an index of patterns, or the authors' own cubes."""
    train: Patches
    validation: Patches
    where = settings.patterns or index_path(settings.folder, settings.fold)
    if where.is_dir():
        train = cubes = PublishedPatterns(where, "train", settings.fold, settings.classes)
        plan, n_class = cube_plan(where, cubes.size_dhw), cubes.n_class
        validation = PublishedPatterns(where, "val", settings.fold, n_class)
    else:
        patterns = read_patterns(where)
        _check_scans(settings.folder, patterns.cases, where)
        plan = _plan(settings).with_(patch_size=patterns.cube_dhw)
        n_class = min(settings.classes or len(patterns.places), len(patterns.places))
        train, validation = (
            PatternPatches(settings.folder, patterns, rows[rows[:, 0] < n_class], plan.in_channels)
            for rows in (patterns.training, patterns.validation)
        )
    module = SemanticModule(
        plan,
        network_of(settings),
        n_class=n_class,
        exp=settings.exp,
        lambda_rec=settings.lambda_rec,
        lambda_cls=settings.lambda_cls,
        optimization=optimization_of(settings),
        z_score=settings.z_score,
        run_settings=as_json(settings),
    )
    genesis = genesis_settings(settings.methods, settings.genesis or (), GenesisSettings.semantic)
    return Pretraining(module=module, train=train, validation=validation, genesis=genesis)


def _plan(settings: MainSettings) -> Plan:
    """The folder's, without mirroring: where the corruption mirrors, it does so by itself."""
    return load_plan(settings).with_(mirror_axes=())


def _check_scans(folder: Path, cases: tuple[str, ...], index: Path) -> None:
    if missing := sorted(set(cases) - set(list_cases(folder))):
        raise CaseError(
            f"{index} names {len(missing)} scans that {folder} does not hold, such as {missing[0]}: "
            "give the --data that it was made from, or run preprocess.py --exec_mode patterns again"
        )


def write_scan_features(settings: MainSettings, module: RestorationModule, trainer: Trainer) -> None:
    """``features.npy`` of every scan of the folder, by the best epoch's weights; rank 0 alone."""
    if not trainer.is_global_zero or not isinstance(module.network, Autoencoder):
        return
    kept = [c.best_model_path for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c.monitor]  # type: ignore[attr-defined]
    scans = ScanPatches(settings.folder, list_cases(settings.folder), module.plan.in_channels)
    save_features(
        settings.results / "features.npy",
        module.network,
        Path(kept[0]) if kept and kept[0] else None,
        scans,
        module.plan.patch_size,
        trainer.strategy.root_device,
    )
