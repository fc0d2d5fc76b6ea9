"""A row of numbers for each scan: ``--exec_mode predict --kind classification`` and ``--exec_mode features``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cases.case import CaseError, list_cases
from cases.files import whole_file, write_array
from cases.folder import FolderSettings
from cases.settings import Given
from cases.splits import FoldSettings, fold_cases
from cases.volumes import FormatSettings, use_formats
from cli.mode import Mode
from cli.predict import InputSettings
from cli.trained import TrainedSettings, own_checkpoint
from data_preprocessing.recipes import OwnSettings
from inference.predict import Load, raw_loads, stored_loads
from inference.scan_vectors import Answer, scan_vectors
from inference.scans import input_scans
from inference.sliding_window import SlidingWindow, WindowSettings
from nets.build import build_classifier, build_encoder
from nets.heads import global_features
from pretraining.autoencoder.network import build_autoencoder
from runtime.devices import DeviceSettings, build_fabric
from runtime.dllogger_backend import ResultsSettings
from training.checkpoint import Checkpoint, CheckpointError
from training.classification import LossKind, decide_classes, probabilities_of

ENCODER = ("encoder.", "net.encoder.")  # before the encoder's names in a checkpoint


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Scans that were read, in order, and a row for each, float64; how many could not be read."""

    cases: list[str]
    values: Tensor
    failed: int


def classify(given: Given) -> int:
    """Write the probability of every class for each scan; 1 if one failed, after all others."""
    checkpoint = own_checkpoint(given, "classification")
    kind: LossKind = "bce" if checkpoint.settings.get("loss") == "bce" else "ce"
    hidden = int(checkpoint.settings.get("hidden", 0)) or None
    network = build_classifier(checkpoint.plan, checkpoint.network, checkpoint.n_outputs, hidden=hidden)
    network.load_state_dict(checkpoint.weights)
    rows = _rows(given, checkpoint, network, lambda x: probabilities_of(network(x), kind), checkpoint.n_outputs)
    if rows is None:
        return 0
    names = checkpoint.classes or tuple(map(str, range(checkpoint.n_outputs)))
    path = given[ResultsSettings].results / "predictions.csv"
    heading = ["case", *(f"p({name})" for name in names), "class" if kind == "ce" else "labels"]
    lines = [
        [case, *(f"{value:.6f}" for value in row), decide_classes(row, names, kind)]
        for case, row in zip(rows.cases, rows.values.tolist(), strict=True)
    ]
    _write_table(path, heading, lines)
    print(path)
    return int(rows.failed > 0)


def features(given: Given) -> int:
    """Write the mean of the encoder's last feature maps for each scan; 1 if one failed, after all others."""
    checkpoint = own_checkpoint(given, None)
    encoder, width = encoder_of(checkpoint)
    rows = _rows(given, checkpoint, encoder, lambda x: global_features(encoder(x)[-1]), width)
    if rows is None:
        return 0
    results, values = given[ResultsSettings].results, rows.values.float()
    heading = ["case", *(f"f{number}" for number in range(values.shape[1]))]
    lines = [[case, *(f"{value:.6g}" for value in row)] for case, row in zip(rows.cases, values.tolist(), strict=True)]
    write_array(results / "features.npy", values.numpy())
    _write_table(results / "features.csv", heading, lines)
    print(f"{results / 'features.csv'} and features.npy: {len(rows.cases)} scans, {values.shape[1]} features")
    return int(rows.failed > 0)


def encoder_of(checkpoint: Checkpoint) -> tuple[nn.Module, int]:
    """The encoder of a network that was made for anything, with its weights, and its last stage's channels."""
    encoder: Any
    if checkpoint.kind == "autoencoder":  # whose norms are others
        encoder = build_autoencoder(checkpoint.plan, checkpoint.network).encoder
    else:
        encoder = build_encoder(checkpoint.plan, checkpoint.network)
    prefix = next((known for known in ENCODER if any(name.startswith(known) for name in checkpoint.weights)), "")
    found = {name.removeprefix(prefix): w for name, w in checkpoint.weights.items() if name.startswith(prefix)}
    try:
        encoder.load_state_dict(found)
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path} holds no encoder of its own settings: {error}") from error
    return encoder, encoder.channels[-1]


def _rows(given: Given, checkpoint: Checkpoint, network: nn.Module, answer: Answer, width: int) -> Rows | None:
    """What ``answer`` says of each scan, gathered from all ranks; None but on the first of them."""
    use_formats(given[FormatSettings].formats)
    loads = _loads(given, checkpoint)
    fabric = build_fabric(given[DeviceSettings])
    fabric.to_device(network).eval()
    windows = SlidingWindow.of(checkpoint.plan, given[WindowSettings])
    values, done = torch.zeros(len(loads), width, dtype=torch.float64), torch.zeros(len(loads))
    mine = range(fabric.global_rank, len(loads), fabric.world_size)
    vectors = scan_vectors(
        [loads[number] for number in mine], answer, windows, device=fabric.device, autocast=fabric.autocast
    )
    for number, found in zip(mine, vectors, strict=True):
        if found.vector is None:
            print(f"error: {found.fault}", file=sys.stderr, flush=True)
        else:
            values[number], done[number] = found.vector, 1
    values, done = fabric.all_reduce((values.to(fabric.device), done.to(fabric.device)), reduce_op="sum")
    if not fabric.is_global_zero:
        return None
    kept = done.cpu() > 0
    given[ResultsSettings].results.mkdir(parents=True, exist_ok=True)
    cases = [case for (case, _), there in zip(loads, kept.tolist(), strict=True) if there]
    return Rows(cases=cases, values=values.cpu()[kept], failed=len(loads) - len(cases))


def _loads(given: Given, checkpoint: Checkpoint) -> list[tuple[str, Load]]:
    """The scans of --input, or those of a preprocessed folder; of its val/ the fold's own."""
    source = given[InputSettings].input
    if source is not None:
        scans = input_scans(source, channels=len(checkpoint.plan.channels))
        return raw_loads(scans, checkpoint.plan, given[OwnSettings].own)
    folder = given[FolderSettings].folder()
    checkpoint.check_plan(given[FolderSettings].plan(), folder)
    cases = fold_cases(folder, given[FoldSettings])[1] if folder.name == "val" else list_cases(folder)
    if not cases:
        raise CaseError(f"{folder} holds no cases: run preprocess.py first, or give --input")
    return stored_loads(folder, cases)


def _write_table(path: Path, heading: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([heading, *lines])


READING = (
    FolderSettings,
    FoldSettings,
    ResultsSettings,
    DeviceSettings,
    TrainedSettings,
    InputSettings,
    FormatSettings,
    OwnSettings,
    WindowSettings,
)
MODES = (
    Mode(
        name="--exec_mode predict --kind classification",
        help="write the probabilities of the classes of scans, as a table",
        chosen_by={"exec_mode": "predict", "kind": "classification", "benchmark": False},
        groups=READING,
        run=classify,
    ),
    Mode(
        name="--exec_mode features",
        help="write what an encoder sees in scans, a row of numbers for each",
        chosen_by={"exec_mode": "features", "kind": "segmentation", "benchmark": False},
        groups=READING,
        run=features,
    ),
)
