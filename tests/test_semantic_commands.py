"""main.py and preprocess.py on the methods of Semantic Genesis, as command lines."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import main
import preprocess
from cases.case import list_cases
from cases.plan import Plan
from cli.run import run_command
from data_preprocessing.phantom import Phantom, write_dataset
from nets.build import build_classifier
from nets.dynamic_unet import NetworkSettings
from nets.weights.matching import load_pretrained
from pretraining.semantic.files import read_patterns, write_features

NET = "--gpus 0 --filters 4 8 --depth 1 --num_workers 0 --batch_size 4 --nfolds 4 --weight_decay 0".split()
PLACES = "--classes 3 --instances 6 --val_instances 2 --cube_size 8 8 8 --border 0 0 0 --nfolds 4".split()


def run(*argv: object) -> int | str | None:
    """main.py in this process; its exit status, or its message."""
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main.main([str(value) for value in argv]))
    return exit_.value.code


def pretrain(cases: Path, results: Path, *flags: object) -> int | str | None:
    return run("--exec_mode", "pretrain", "--data", cases, "--results", results, *NET, *flags)


def patterns(cases: Path, features: Path, *flags: str) -> int:
    return preprocess.main(
        ["--exec_mode", "patterns", "--dataset", str(cases), "--features", str(features), *PLACES, *flags]
    )


def epochs_of(results: Path) -> list[dict[str, float]]:
    lines = [json.loads(line.removeprefix("DLLL ")) for line in (results / "logs.json").read_text().splitlines()]
    return [line["data"] for line in lines if isinstance(line["step"], int)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten preprocessed CT phantoms with an index of patterns."""
    folder = tmp_path_factory.mktemp("semantic") / "Task93_Phantom"
    write_dataset(folder, Phantom(shape_dhw=(16, 24, 20), modality="CT", seed=3), cases=10)
    assert preprocess.main(["--dataset", str(folder), "--results", str(folder.parent), "--n_jobs", "1"]) == 0
    cases = folder.parent / "Task93_Phantom_3d"
    names = list_cases(cases)
    (folder.parent / "features").mkdir()
    features = folder.parent / "features" / "features.npy"
    write_features(features, names, np.random.default_rng(0).normal(size=(len(names), 5)))
    assert patterns(cases, features, "--no-tissue_filter", "--write_cubes") == 0
    return cases


def test_the_filter_is_on_for_ct_and_its_failure_names_the_way_out(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = cases.parent / "features" / "features.npy"
    assert patterns(cases, features, "--tissue_max", "0", "--fold", "1") == 1
    error = capsys.readouterr().err
    assert "of 3 classes found, the tissue filter rejects the others" in error and "switch the filter off" in error


def test_index_and_published_cubes_train_alike(cases: Path, tmp_path: Path) -> None:
    common = ["--method", "semantic", "--epochs", 1, "--genesis", "elastic_sigma=2"]
    assert pretrain(cases, tmp_path / "index", *common) == 0
    assert pretrain(cases, tmp_path / "cubes", *common, "--patterns", cases / "patterns") == 0
    (index,), (cubes,) = epochs_of(tmp_path / "index"), epochs_of(tmp_path / "cubes")
    assert index["Restoration loss"] == pytest.approx(cubes["Restoration loss"], rel=0.3)
    assert pretrain(cases, tmp_path / "two", *common, "--patterns", cases / "patterns", "--classes", 2) == 0
    assert pretrain(cases, tmp_path / "index2", *common, "--classes", 2) == 0
    assert epochs_of(tmp_path / "index2")[0]["Class loss"] < 3
    content = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["kind"] == "semantic" and content["n_outputs"] == 2
    assert content["state_dict"]["network.head.linear.weight"].shape == (2, 1024)


def test_decoder_follows_the_encoder_and_a_stopped_run_goes_on(cases: Path, tmp_path: Path) -> None:
    common = ["--method", "semantic", "--learning_rate", 0.003]
    assert pretrain(cases, tmp_path / "en", *common, "--exp", "en", "--epochs", 1) == 0
    best = next((tmp_path / "en" / "checkpoints").glob("semantic-*.ckpt"))
    start = ["--exp", "en_de", "--ckpt_path", best]
    assert pretrain(cases, tmp_path / "whole", *common, *start, "--epochs", 2) == 0
    assert pretrain(cases, tmp_path / "parts", *common, *start, "--epochs", 1) == 0
    resumed = ["--exp", "en_de", "--resume_training", "--epochs", 2]
    assert pretrain(cases, tmp_path / "parts", *common, *resumed) == 0
    last = [tmp_path / results / "checkpoints" / "last.ckpt" for results in ("whole", "parts")]
    whole, parts = (torch.load(path, weights_only=True) for path in last)
    assert all(torch.equal(value, parts["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert len(epochs_of(tmp_path / "parts")) == 2


def test_the_autoencoder_ends_in_features_and_knows_its_plateau(cases: Path, tmp_path: Path) -> None:
    flags = ["--method", "autoencoder", "--patch_size", 8, 8, 8, "--epochs", 2]
    assert pretrain(cases, tmp_path, *flags, "--scheduler", "plateau", "--plateau_epochs", 1) == 0
    assert len(epochs_of(tmp_path)) == 2 and (tmp_path / "features.npy").is_file()
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["kind"] == "autoencoder" and content["lr_schedulers"][0]["patience"] == 1


def test_pretrained_semantic_weights_start_segmentation_and_classification(cases: Path, tmp_path: Path) -> None:
    assert pretrain(cases, tmp_path / "pre", "--method", "semantic", "--epochs", 1) == 0
    best = next((tmp_path / "pre" / "checkpoints").glob("semantic-*.ckpt"))
    flags = ["--data", cases, "--results", tmp_path / "fine", *NET, "--epochs", 1, "--steps_per_epoch", 1]
    assert run(*flags, "--pretrained", best, "--transfer", "all") == 0
    report = (tmp_path / "fine" / "pretrained.txt").read_text().splitlines()
    assert all(line.startswith("taken   100.0 %") for line in report if "encoder." in line) and len(report) > 10
    classifier = build_classifier(Plan.load(cases), NetworkSettings(filters=(4, 8), depth=1), 2)
    assert load_pretrained(classifier, best).encoder_coverage == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fold", "2"], "patterns_fold2.json does not exist: preprocess.py --exec_mode patterns makes it"),
        (["--patterns", "{cases}"], "train_data1_vwGen_ex_ref_fold0.npy does not exist"),
    ],
)
def test_missing_patterns_are_named(cases: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    given = [flag.format(cases=cases) for flag in flags]
    assert message in str(pretrain(cases, tmp_path, "--method", "semantic", *given))


def test_an_index_of_other_scans_is_refused(cases: Path, tmp_path: Path) -> None:
    index = cases / "patterns" / "patterns_fold0.npy"
    other = tmp_path / "patterns_fold0.npy"
    other.write_bytes(index.read_bytes())
    header = json.loads(index.with_suffix(".json").read_text())
    header["cases"][0] = "stranger"
    other.with_suffix(".json").write_text(json.dumps(header))
    message = str(pretrain(cases, tmp_path, "--method", "semantic", "--patterns", other))
    assert "names 1 scans" in message and "stranger" in message
    assert read_patterns(other).cases[0] == "stranger"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "semantic", "--dim", "2"], "--method semantic is for --dim 3"),
        (["--method", "semantic", "--patch_size", "8", "8", "8"], "the patterns have their size"),
        (["--method", "autoencoder", "--outputs", "2"], "--cubes and --outputs are for --method genesis"),
        (["--patterns", "x"], "--patterns and --classes are for --method semantic"),
        (["--method", "semantic", "--lambda_cls", "-1"], "cannot be negative"),
        (["--exec_mode", "train", "--method", "semantic"], "--method semantic is for --exec_mode pretrain"),
        (["--exec_mode", "train", "--scheduler", "plateau"], "--scheduler plateau is for --exec_mode pretrain"),
        (["--preset", "semantic_genesis", "--exec_mode", "train"], "semantic_genesis is for --exec_mode pretrain"),
    ],
)
def test_contradictions_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    mode = [] if "--exec_mode" in flags else ["--exec_mode", "pretrain"]
    with pytest.raises(SystemExit):
        main.main([*mode, *flags])
    assert message in capsys.readouterr().err
