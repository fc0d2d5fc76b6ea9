"""The whole chain of Semantic Genesis on made-up scans, as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_preprocessing.pattern_files import read_features
from data_preprocessing.phantom import Phantom, write_dataset
from nets.formats import read_weights
from nets.published import network_of

ROOT = Path(__file__).parents[2]
OWN = "--scan_size 16 24 16 --cube_size 8 8 8 --border 1 1 1 --classes 3 --instances 6 --val_instances 2 --nfolds 4"
TRAINING = "--gpus 0 --encoder unet --filters 4 8 --depth 1 --num_workers 0 --batch_size 4 --genesis elastic_sigma=2"


def chain(scans: Path, results: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "semantic_genesis.py", "--scans", scans, "--results", results]
    epochs = ["--autoencoder_epochs", "1", "--en_epochs", "1", "--epochs", "2"]
    return subprocess.run(
        [*map(str, command), *OWN.split(), *epochs, *flags, "--", *TRAINING.split(), "--norm", "batch"],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of the chain, ``scans/imagesTr``, and its results, ``out``."""
    folder = tmp_path_factory.mktemp("chain")
    write_dataset(folder / "scans", Phantom(shape_dhw=(16, 24, 20), seed=3), cases=10)
    ran = chain(folder / "scans" / "imagesTr", folder / "out", "--modality", "MRI")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "Pre-trained: " in ran.stdout and "Mean correlation of cubes: " in ran.stdout
    return folder


def test_the_chain_leaves_a_network_that_loads(folder: Path) -> None:
    out = folder / "out"
    cases, features = read_features(out / "autoencoder" / "features.npy")
    assert features.shape == (10, 8) and len(cases) == 10
    patterns = out / "imagesTr_3d" / "patterns"
    assert {path.name for path in patterns.iterdir()} == {f"patterns_fold0.{end}" for end in ("npy", "json", "png")}
    best = Path(json.loads((out / "semantic_en_de" / "done.json").read_text())["checkpoint"])
    net = network_of(read_weights(best))
    logits, scores = net(torch.zeros(1, 1, 8, 8, 8))
    assert logits.shape == (1, 1, 8, 8, 8) and scores.shape == (1, 3)
    logged = [json.loads(line[5:]) for line in (out / "semantic_en_de" / "logs.json").read_text().splitlines()]
    epochs = [record["data"] for record in logged if isinstance(record["step"], int)]
    assert len(epochs) == 2 and {"Pseudo-class accuracy %", "Restoration loss", "Class loss"} <= set(epochs[1])
    assert epochs[1]["Restoration loss"] < epochs[0]["Restoration loss"]
    assert (out / "semantic_en_de" / "restoration_epoch=1.png").is_file()
    assert not list((out / "semantic_en").glob("restoration*.png"))


def test_what_is_there_is_not_done_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.ckpt")}
    ran = chain(folder / "scans" / "imagesTr", folder / "out", "--modality", "MRI")
    assert ran.returncode == 0 and ran.stdout.count("done before") == 3 and "and is kept" in ran.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.ckpt")}


def test_a_step_that_fails_is_named(folder: Path) -> None:
    ran = chain(folder / "scans" / "imagesTr", folder / "out", "--classes", "4000")
    assert ran.returncode == 1
    assert "of 4000 classes found" in ran.stderr and "preprocess.py ended with status 1" in ran.stderr
    assert "Traceback" not in ran.stderr
