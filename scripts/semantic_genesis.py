"""Semantic Genesis from a folder of scans to a pre-trained network; flags of all three trainings follow after ``--``.

    python scripts/semantic_genesis.py --scans S --results R -- --batch_size 32

Five steps, each skipped where it is done with the same settings and continued where it was stopped: cases
(R/<name>_3d), the autoencoder and its features (R/autoencoder), the index of patterns (in the cases' folder),
the encoder learning classes (R/semantic_en), and encoder and decoder learning classes and restoration
(R/semantic_en_de). The best checkpoint of the last is what ``main.py --pretrained`` takes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from cases.case import list_cases, read_info
from cases.plan import PLAN_FILE
from cases.settings import Given, Settings, above, at_least, setting
from cli.compose import parse, without
from cli.launch import MAIN, PREPROCESS, launch, split_at_dashes
from cli.modes import parse_main, rewrite
from cli.run import run_command
from cli.steps import Step, StepError, check, decisive
from data_preprocessing.layouts import read_dataset
from nets.dynamic_unet import NetworkSettings
from pretraining.autoencoder.method import SCAN_DHW
from pretraining.semantic.method import SemanticGenesis
from pretraining.semantic.patterns import Extents
from runtime.dllogger_backend import LogSettings

DESCRIPTION = (
    "Semantic Genesis as one command. Flags of main.py that follow after -- go to all three trainings: autoencoder, "
    "encoder, and encoder with decoder, whose inputs differ in size. Give those of the network together, such as "
    "-- --encoder unet --filters 8 16 32 --depth 2."
)
PATTERNS = ("classes", "instances", "val_instances", "cube_size", "border", "tissue_filter")


@dataclass(frozen=True, kw_only=True)
class ChainSettings(Settings):
    """The scans, the patterns in them, and how long each network learns."""

    scans: Path = setting(help="folder of scans, or a dataset's folder; labels are not read")
    results: Path = setting(help="where everything goes")
    modality: Literal["CT", "MRI"] | None = setting(None, "of the scans; None: as dataset.json says, or by intensity")
    scan_size: tuple[int, ...] | None = setting(
        None,
        "(D, H, W) that the autoencoder sees a whole scan in; None: 64 128 128 as published, or on an axis where the "
        "scans' common grid (their median shape) is smaller, that",
    )
    cube_size: tuple[int, ...] = setting((64, 64, 32), "(W, H, D) of a pattern", check=above(0))
    classes: int = setting(44, "patterns", check=above(0))
    instances: int = setting(200, "training scans that show a pattern", check=above(0))
    val_instances: int = setting(30, "validation scans that show a pattern", check=above(0))
    border: tuple[int, ...] = setting((100, 100, 30), "voxels (W, H, D) to stay off a scan's border")
    tissue_filter: bool = setting(True, "leave out places full of soft tissue; for lungs, always off for MRI")
    autoencoder_epochs: int = setting(
        10000, "the most epochs of the autoencoder; 50 without gain end it", check=above(0)
    )
    en_epochs: int = setting(10000, "the most epochs of the encoder alone; 0 leaves this step out", check=at_least(0))
    epochs: int = setting(10000, "the most epochs of encoder and decoder", check=above(0))
    nfolds: int = setting(5, "folds of the cross-validation")
    fold: int = setting(0, "the fold that validates")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A pre-training of the chain: ``argv`` are main.py's arguments, ``start`` those that a resumed run leaves out."""

    step: Step
    argv: list[str]
    start: tuple[str, ...] = ()

    def run(self) -> Path:
        """The best checkpoint; what is done is not repeated, and a stopped run goes on."""
        step = self.step
        if step.result() is None:
            how = ("--resume_training",) if step.stopped else self.start
            step.begin()
            _run(MAIN, [*self.argv, *how])
            found = (step.folder / "checkpoints").glob(f"{step.settings['method']}-*.ckpt")
            step.finish(checkpoint=max(found, key=lambda path: path.stat().st_mtime).name)
        else:
            print(f"{step.folder}: done before", flush=True)
        return self.best

    @property
    def best(self) -> Path:
        """Its best checkpoint; a file that does not exist where it is not done."""
        return self.step.folder / "checkpoints" / str(self.step.recorded.get("checkpoint", "none"))


def main(argv: Sequence[str] | None = None) -> int:
    """0 where the network is there; the first step that fails ends the chain."""
    own, extra = split_at_dashes(sys.argv[1:] if argv is None else argv)
    settings = parse((ChainSettings,), own, DESCRIPTION)[ChainSettings]
    folder = settings.results / f"{read_dataset(settings.scans).name}_3d"
    _check_network(_parsed(settings, folder, "en_de", extra)[0][NetworkSettings])
    if (folder / PLAN_FILE).is_file():
        _check(settings, folder, extra)
    modality = ["--modality", settings.modality] if settings.modality else []
    _run(PREPROCESS, ["--dataset", settings.scans, "--results", settings.results, *modality])
    _check(settings, folder, extra)

    print(f"The autoencoder sees whole scans as {' x '.join(map(str, scan_size(settings, folder)))} voxels", flush=True)
    _autoencoder(settings, folder, extra).run()
    _run(PREPROCESS, _patterns(settings, folder))
    if settings.en_epochs:
        _semantic(settings, folder, "en", extra).run()
    best = _semantic(settings, folder, "en_de", extra).run()
    print(f"Pre-trained: {best}; main.py --pretrained {best} fine-tunes it")
    return 0


def scan_size(settings: ChainSettings, folder: Path) -> tuple[int, ...]:
    """(D, H, W): --scan_size, else as published, but no larger than the scans' common grid, in whole eighths."""
    if settings.scan_size is not None:
        return settings.scan_size
    cases = list_cases(folder)
    grid = Extents.of([read_info(folder, case) for case in cases]).grid if cases else SCAN_DHW
    return tuple(min(most, 8 * math.ceil(side / 8)) for most, side in zip(SCAN_DHW, grid, strict=True))


def _check(settings: ChainSettings, folder: Path, extra: Sequence[str]) -> None:
    """Raises StepError where what is done already is not what is asked for."""
    exps = ("en", "en_de") if settings.en_epochs else ("en_de",)
    trainings = [_autoencoder(settings, folder, extra), *(_semantic(settings, folder, exp, extra) for exp in exps)]
    check(training.step for training in trainings)


def _check_network(settings: NetworkSettings) -> None:
    """Raises StepError for --filters that cannot serve three trainings of different input size."""
    if settings.filters is None:
        return
    filters, most = " ".join(map(str, settings.filters)), len(settings.filters) - 1
    if most < settings.depth:
        raise StepError(
            f"--filters {filters} are for at most {most} down-samplings, and the three trainings, whose "
            f"inputs differ in size, may take {settings.depth}: give --filters {filters} --depth {most}"
        )


def _autoencoder(settings: ChainSettings, folder: Path, extra: Sequence[str]) -> Training:
    parsed, argv = _parsed(settings, folder, "autoencoder", extra)
    results = parsed[LogSettings].results
    step = Step(folder=results, settings=decisive(parsed), sources={"preprocessed folder": folder})
    return Training(step=step, argv=argv)


def _semantic(settings: ChainSettings, folder: Path, exp: str, extra: Sequence[str]) -> Training:
    """What it learns, the patterns, is decided by their settings and by the features of the scans."""
    parsed, argv = _parsed(settings, folder, exp, extra)
    patterns = {name: getattr(settings, name) for name in PATTERNS}
    sources = {"preprocessed folder": folder, "autoencoder": settings.results / "autoencoder" / "features.npy"}
    start: tuple[str, ...] = ()
    if exp == "en_de" and settings.en_epochs:
        sources["semantic_en"] = _semantic(settings, folder, "en", extra).best
        start = ("--ckpt_path", str(sources["semantic_en"]))
    step = Step(folder=parsed[LogSettings].results, settings=decisive(parsed) | patterns, sources=sources)
    return Training(step=step, argv=argv, start=start)


def _parsed(settings: ChainSettings, folder: Path, name: str, extra: Sequence[str]) -> tuple[Given, list[str]]:
    """main.py's settings of a training, "autoencoder", "en" or "en_de", and the arguments that make them."""
    if name == "autoencoder":
        results, epochs = settings.results / name, settings.autoencoder_epochs
        own = ["--preset", "semantic_autoencoder", "--patch_size", *scan_size(settings, folder)]
        extra = without(SemanticGenesis.settings, rewrite(extra))  # it learns no patterns, and from whole scans
    else:
        results = settings.results / f"semantic_{name}"
        epochs = settings.epochs if name == "en_de" else max(settings.en_epochs, 1)
        own = ["--preset", "semantic_genesis", "--exp", name]
    own += ["--data", folder, "--nfolds", settings.nfolds, "--fold", settings.fold, "--epochs", epochs]
    argv = [str(value) for value in ("--exec_mode", "pretrain", "--results", results, *own, *extra)]
    return parse_main(argv), argv


def _patterns(settings: ChainSettings, folder: Path) -> list[object]:
    """preprocess.py's arguments for self-discovery."""
    numbers = ("classes", "instances", "val_instances", "nfolds", "fold")
    wanted = [text for name in numbers for text in (f"--{name}", getattr(settings, name))]
    switch = "--tissue_filter" if settings.tissue_filter else "--no-tissue_filter"
    places = ["--dataset", folder, "--features", settings.results / "autoencoder" / "features.npy", switch]
    places += ["--cube_size", *settings.cube_size, "--border", *settings.border, *wanted]
    return ["--exec_mode", "patterns", *places]


def _run(program: Path, arguments: Sequence[object]) -> None:
    if status := launch([str(argument) for argument in arguments], program):
        raise StepError(f"{program.name} ended with status {status}; mend it, and the same command goes on from here")


if __name__ == "__main__":
    run_command(main)
