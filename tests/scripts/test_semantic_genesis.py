"""The whole chain of Semantic Genesis on made-up scans, as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_preprocessing.phantom import Phantom, write_dataset
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network
from pretraining.semantic.files import read_features
from scripts import semantic_genesis
from scripts.semantic_genesis import ChainSettings, scan_size

ROOT = Path(__file__).parents[2]
OWN = "--cube_size 8 8 8 --border 1 1 1 --classes 3 --instances 6 --val_instances 2 --nfolds 4"
TRAINING = "--gpus 0 --encoder unet --filters 4 8 --depth 1 --num_workers 0 --batch_size 4 --genesis elastic_sigma=2"


def chain(scans: Path, results: Path, *flags: str, training: str = TRAINING) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "semantic_genesis.py", "--scans", scans, "--results", results]
    epochs = ["--autoencoder_epochs", "1", "--en_epochs", "1", "--epochs", "2"]
    return subprocess.run(
        [*map(str, command), *OWN.split(), *epochs, *flags, "--", *training.split(), "--norm", "batch"],
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
    assert "The autoencoder sees whole scans as 16 x 24 x 24 voxels" in ran.stdout
    return folder


def test_the_chain_leaves_a_network_that_loads(folder: Path) -> None:
    out = folder / "out"
    cases, features = read_features(out / "autoencoder" / "features.npy")
    assert features.shape == (10, 8) and len(cases) == 10
    patterns = out / "imagesTr_3d" / "patterns"
    assert {path.name for path in patterns.iterdir()} == {f"patterns_fold0.{end}" for end in ("npy", "json", "png")}
    done = json.loads((out / "semantic_en_de" / "done.json").read_text())
    assert done["settings"]["filters"] == [4, 8] and done["settings"]["classes"] == 3 and done["sources"]["semantic_en"]
    best = out / "semantic_en_de" / "checkpoints" / done["result"]["checkpoint"]
    net = rebuild_network(read_weights(best))
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


@pytest.mark.parametrize(
    ("flags", "training", "named", "difference"),
    [
        (["--classes", "2"], TRAINING, ("semantic_en", "semantic_en_de"), "with --classes 3, not 2"),
        (["--epochs", "3"], TRAINING, ("semantic_en_de",), "with --epochs 2, not 3"),
        (
            [],
            TRAINING.replace("4 8", "8 16"),
            ("autoencoder", "semantic_en", "semantic_en_de"),
            "with --filters 4 8, not 8 16",
        ),
    ],
)
def test_what_was_made_with_other_settings_is_refused(
    folder: Path, flags: list[str], training: str, named: tuple[str, ...], difference: str
) -> None:
    index = folder / "out" / "imagesTr_3d" / "patterns" / "patterns_fold0.npy"
    before = index.stat().st_mtime_ns
    ran = chain(folder / "scans" / "imagesTr", folder / "out", "--modality", "MRI", *flags, training=training)
    assert ran.returncode == 1 and ran.stderr.count("error: ") == 1 and "preprocess.py" not in ran.stdout
    assert ran.stderr.count(difference) == len(named) == ran.stderr.count("was made")
    assert f"delete {', '.join(str(folder / 'out' / name) for name in named)}\n" in ran.stderr
    assert index.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("--encoder unet --filters 8 16 32", "give --filters 8 16 32 --depth 2"),
        ("--filters 8 16 32", "give --encoder unet --filters 8 16 32 --depth 2"),
        ("--no_such_flag", "unrecognized arguments: --no_such_flag"),
    ],
)
def test_flags_of_the_trainings_are_checked_before_any_work(
    folder: Path, tmp_path: Path, training: str, message: str
) -> None:
    ran = chain(folder / "scans" / "imagesTr", tmp_path / "new", training=training)
    assert ran.returncode and message in ran.stderr and not (tmp_path / "new").exists()


def test_the_autoencoder_sees_large_scans_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ChainSettings(scans=tmp_path, results=tmp_path)
    monkeypatch.setattr(semantic_genesis, "list_cases", lambda folder: ["a"])
    monkeypatch.setattr(semantic_genesis, "read_info", lambda folder, case: None)
    for grid, size in (((300, 512, 512), (64, 128, 128)), ((60, 130, 33), (64, 128, 40))):
        monkeypatch.setattr(semantic_genesis.Extents, "of", lambda infos, grid=grid: SimpleNamespace(grid=grid))
        assert scan_size(settings, tmp_path) == size


def test_a_step_that_fails_is_named(folder: Path) -> None:
    for name in ("semantic_en", "semantic_en_de"):
        (folder / "out" / name / "done.json").unlink()
    ran = chain(folder / "scans" / "imagesTr", folder / "out", "--modality", "MRI", "--classes", "4000")
    assert ran.returncode == 1
    assert "of 4000 classes found" in ran.stderr and "preprocess.py ended with status 1" in ran.stderr
    assert "Traceback" not in ran.stderr
