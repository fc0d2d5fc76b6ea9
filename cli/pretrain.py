"""``--exec_mode pretrain``: learn from scans without labels, as ``--method`` says."""

from __future__ import annotations

from pytorch_lightning import seed_everything

from cases.folder import FolderSettings
from cases.settings import Given
from cases.splits import FoldSettings
from cli import building
from cli.mode import Mode
from cli.train import LEARNING, learning_faults
from data_loading.module import LoaderSettings
from nets.choice import NetworkChoice
from nets.dynamic_unet import NetworkSettings
from pretraining import METHODS, MethodSettings
from pretraining.base import Run
from pretraining.loader import RestorationDataModule
from pretraining.restoration import RestorationPictures, RestorationSettings
from runtime.devices import DeviceSettings, gpu_of, usable_layout
from runtime.dllogger_backend import LogSettings
from training.optimization import OptimizationSettings


def pretrain(given: Given) -> int:
    """Learn from unlabelled scans."""
    seed_everything(given[LoaderSettings].seed, verbose=False)
    folder, results = given[FolderSettings].folder(), given[LogSettings].results
    devices, choice = given[DeviceSettings], NetworkChoice.of(given)
    layout = usable_layout(choice.network.layout, devices, given[FolderSettings].dim)
    run = Run(
        folder=folder,
        results=results,
        fold=given[FoldSettings].fold,
        load_plan=given[FolderSettings].plan,
        load_fold=lambda: building.training_cases(given),
        network=building.with_layout(choice, layout),
        optimization=given[OptimizationSettings],
        record=given.as_json(),
    )
    method = METHODS.get(given[MethodSettings].method)()
    work = method.build(given, run)
    training = building.Training(given, work.module, folder)
    trainer = training.trainer(RestorationPictures(results, given[RestorationSettings].picture_every))
    data = RestorationDataModule(
        work.train, work.validation, work.module.plan, given[LoaderSettings], work.corruption, gpu_of(trainer)
    )
    training.fit(trainer, data, (len(work.train.names), len(work.validation.names)))
    method.finish(work, run, trainer)
    return 0


def faults(given: Given) -> list[str]:
    """Faults of a pre-training."""
    found, dim, name = learning_faults(given), given[FolderSettings].dim, given[MethodSettings].method
    method = METHODS.get(name)
    if dim not in method.dims:
        found.append(f"--method {name} is for --dim {' or '.join(map(str, method.dims))}")
    for kind in METHODS.settings_of(name):
        sides = getattr(given[kind], "patch_size", None)
        if sides is not None and len(sides) != dim:
            found.append(f"--patch_size {sides} has not the {dim} sides of --dim {dim}")
    return found


MODES = (
    Mode(
        name="--exec_mode pretrain",
        help="learn from scans without labels",
        chosen_by={"exec_mode": "pretrain", "kind": "segmentation", "benchmark": False},
        groups=(*LEARNING, MethodSettings, RestorationSettings, NetworkSettings),
        run=pretrain,
        faults=faults,
    ),
)
