import json
from pathlib import Path

import pytest
import torch

from cli.steps import StepError
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from scripts import transfer_experiment
from scripts.transfer_experiment import draw, fine_tuned, parse_arguments, table
from tests.conftest import make_plan

DICE = {"scratch": {5: [60.0, 64.0], 10: [70.0]}, "Models Genesis": {5: [66.0, 66.0], 10: []}}


def test_table_tells_mean_spread_and_gain_over_the_same_seeds():
    lines = table(DICE).splitlines()
    assert lines[0] == "| labelled cases | scratch | Models Genesis |"
    assert lines[2] == "| 5 | 62.0 ± 2.8 | 66.0 ± 0.0 (+4.0) |"
    assert lines[3] == "| 10 | 70.0 | - |"


def test_plot_takes_unfinished_experiments(tmp_path):
    draw(tmp_path / "made" / "plot.png", DICE)
    assert (tmp_path / "made" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def options(tmp_path):
    return parse_arguments(["--dataset", str(tmp_path / "data"), "--work", str(tmp_path), "--steps", "7"])


def test_a_run_that_is_done_is_not_repeated(options, tmp_path, monkeypatch):
    calls = []
    more_steps = parse_arguments(["--dataset", str(tmp_path / "data"), "--work", str(tmp_path), "--steps", "8"])

    def main(argv):
        calls.append(argv)
        folder = tmp_path / "models_genesis_n=5_seed=2"
        folder.mkdir()
        record = {"type": "LOG", "step": 0, "data": {"Dice": 81.5}}
        (folder / "logs.json").write_text("DLLL " + json.dumps(record) + "\n")
        return 0

    monkeypatch.setattr(transfer_experiment.command, "main", main)
    for _ in range(2):
        dice = fine_tuned(options, tmp_path / "cases", "Models Genesis", tmp_path / "best.ckpt", 5, 2)
        assert dice == 81.5
    assert len(calls) == 1
    with pytest.raises(StepError, match=r"models_genesis_n=5_seed=2 was made with --steps_per_epoch 7, not 8: give"):
        fine_tuned(more_steps, tmp_path / "cases", "Models Genesis", tmp_path / "best.ckpt", 5, 2)
    other = build_network(make_plan((8, 16, 16)), NetworkSettings(filters=(4, 8), depth=1)).state_dict()
    torch.save({f"network.{name}": value for name, value in other.items()}, tmp_path / "best.ckpt")
    with pytest.raises(StepError, match="was made from another pre-training"):
        fine_tuned(options, tmp_path / "cases", "Models Genesis", tmp_path / "best.ckpt", 5, 2)
    assert len(calls) == 1
    given = " ".join(calls[0])
    for wanted in ("--train_cases 5", "--seed 2", "--steps_per_epoch 7", "--transfer encoder", "best.ckpt", "--fold 0"):
        assert wanted in given


def test_from_scratch_takes_no_weights(options, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(transfer_experiment.command, "main", lambda argv: calls.append(argv) or 1)
    with pytest.raises(SystemExit):
        fine_tuned(options, tmp_path / "cases", "scratch", None, 5, 1)
    assert "--pretrained" not in calls[0]


def test_semantic_genesis_is_learnt_from_the_same_images(options, tmp_path, monkeypatch):
    make_plan((8, 16, 24)).save(tmp_path)
    calls = []

    def main(argv):
        calls.append(" ".join(argv))
        checkpoints = Path(argv[argv.index("--results") + 1]) / "checkpoints"
        checkpoints.mkdir(parents=True)
        for name in ("last", f"best-{len(calls)}"):
            (checkpoints / f"{name}.ckpt").touch()
        return 0

    monkeypatch.setattr(transfer_experiment.command, "main", main)
    monkeypatch.setattr(transfer_experiment.preprocess, "main", lambda argv: calls.append(" ".join(argv)) or 0)
    best = transfer_experiment.pretrained_semantic(options, tmp_path)
    assert best == tmp_path / "pretrained_semantic" / "checkpoints" / "best-3.ckpt"
    autoencoder, patterns, semantic = calls
    assert "--method autoencoder --patch_size 8 16 24" in autoencoder and f"--data {tmp_path}" in autoencoder
    assert f"--features {tmp_path / 'semantic_autoencoder' / 'features.npy'}" in patterns
    assert f"--dataset {tmp_path}" in patterns and "--nfolds 5 --fold 0" in patterns
    assert "--method semantic" in semantic and "--nfolds 5 --fold 0" in semantic
    assert transfer_experiment.pretrained_semantic(options, tmp_path) == best and len(calls) == 4
