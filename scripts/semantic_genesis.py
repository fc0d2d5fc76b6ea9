"""Semantic Genesis from a folder of scans to a pre-trained network; flags of both trainings follow after ``--``.

    python scripts/semantic_genesis.py --scans S --results R -- --batch_size 32

Five steps, each skipped where it is done and continued where it was stopped: cases (R/<name>_3d), the
autoencoder and its features (R/autoencoder), the index of patterns (in the cases' folder), the encoder
learning classes (R/semantic_en), and encoder and decoder learning classes and restoration
(R/semantic_en_de). The best checkpoint of the last is what ``main.py --pretrained`` takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_preprocessing.dataset import read_dataset
from scripts.launch import MAIN, PREPROCESS, launch, split_at_dashes
from settings import parse, run_command, setting


class StepError(ValueError):
    """A step that failed."""


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """``scripts/semantic_genesis.py``."""

    scans: Path = setting(help="folder of scans, or a dataset's folder; labels are not read")
    results: Path = setting(help="where everything goes")
    modality: Literal["CT", "MRI"] | None = setting(None, "of the scans; None: as dataset.json says, or by intensity")
    scan_size: tuple[int, ...] = setting((64, 128, 128), "(D, H, W) that the autoencoder sees a whole scan in")
    cube_size: tuple[int, ...] = setting((64, 64, 32), "(W, H, D) of a pattern")
    classes: int = setting(44, "patterns")
    instances: int = setting(200, "training scans that show a pattern")
    val_instances: int = setting(30, "validation scans that show a pattern")
    border: tuple[int, ...] = setting((100, 100, 30), "voxels (W, H, D) to stay off a scan's border")
    tissue_filter: bool = setting(True, "leave out places full of soft tissue; for lungs, always off for MRI")
    autoencoder_epochs: int = setting(10000, "the most epochs of the autoencoder; 50 without gain end it")
    en_epochs: int = setting(10000, "the most epochs of the encoder alone; 0 leaves this step out")
    epochs: int = setting(10000, "the most epochs of encoder and decoder")
    nfolds: int = setting(5, "folds of the cross-validation")
    fold: int = setting(0, "the fold that validates")


def main(argv: Sequence[str] | None = None) -> int:
    """0 where the network is there; the first step that fails ends the chain."""
    own, extra = split_at_dashes(sys.argv[1:] if argv is None else argv)
    settings = parse(ChainSettings, own, "Semantic Genesis as one command; main.py's flags follow after --.")
    folder = settings.results / f"{read_dataset(settings.scans).name}_3d"
    modality = ["--modality", settings.modality] if settings.modality else []
    _run(PREPROCESS, ["--dataset", settings.scans, "--results", settings.results, *modality])

    training = ["--data", folder, "--nfolds", settings.nfolds, "--fold", settings.fold]
    shape = ["--patch_size", *settings.scan_size, "--epochs", settings.autoencoder_epochs]
    _train("autoencoder", settings.results / "autoencoder", [*training, *shape], extra)

    switch = "--tissue_filter" if settings.tissue_filter else "--no-tissue_filter"
    numbers = ("classes", "instances", "val_instances", "nfolds", "fold")
    wanted = [text for name in numbers for text in (f"--{name}", getattr(settings, name))]
    places = ["--dataset", folder, "--features", settings.results / "autoencoder" / "features.npy", switch]
    places += ["--cube_size", *settings.cube_size, "--border", *settings.border, *wanted]
    _run(PREPROCESS, ["--exec_mode", "patterns", *places])

    start: list[object] = []
    if settings.en_epochs:
        encoder = settings.results / "semantic_en"
        best = _train("semantic", encoder, [*training, "--exp", "en", "--epochs", settings.en_epochs], extra)
        start = ["--ckpt_path", best]
    network = settings.results / "semantic_en_de"
    best = _train("semantic", network, [*training, "--exp", "en_de", "--epochs", settings.epochs], extra, start)
    print(f"Pre-trained: {best}; main.py --pretrained {best} fine-tunes it")
    return 0


def _train(
    method: str, results: Path, arguments: list[object], extra: Sequence[str], start: Sequence[object] = ()
) -> Path:
    """A pre-training with the published settings: its best checkpoint, as ``done.json`` says.

    ``start`` is left out where a stopped run goes on.
    """
    done = results / "done.json"
    if not done.is_file():
        preset = {"autoencoder": "semantic_autoencoder", "semantic": "semantic_genesis"}[method]
        stopped = (results / "checkpoints" / "last.ckpt").is_file()
        how = ["--resume_training"] if stopped else start
        _run(MAIN, ["--exec_mode", "pretrain", "--preset", preset, "--results", results, *arguments, *extra, *how])
        found = (results / "checkpoints").glob(f"{method}-*.ckpt")
        best = max(found, key=lambda path: path.stat().st_mtime)
        done.write_text(json.dumps({"checkpoint": str(best)}) + "\n", encoding="utf-8")
    else:
        print(f"{results}: done before", flush=True)
    return Path(json.loads(done.read_text(encoding="utf-8"))["checkpoint"])


def _run(program: Path, arguments: Sequence[object]) -> None:
    if status := launch([str(argument) for argument in arguments], program):
        raise StepError(f"{program.name} ended with status {status}; mend it, and the same command goes on from here")


if __name__ == "__main__":
    run_command(main)
