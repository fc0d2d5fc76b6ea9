"""Pre-training, transfer and classification from the command line, on made-up scans."""

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import main
import preprocess
from cases.case import list_cases
from cases.plan import Plan
from cases.settings import SettingsError
from cases.volumes import Geometry, read_label, read_volume, write_volume
from cli.modes import PROGRAM, parse_main
from cli.run import run_command
from data_preprocessing.phantom import Phantom, write_dataset

SMALL = "--gpus 0 --filters 4 8 16 --depth 2 --num_workers 0 --batch_size 2 --steps_per_epoch 2 --nfolds 3".split()
TINY_WINDOWS = ["--genesis", "shuffle_windows=20"]


def run(*argv):
    """main.py in this process; its exit status, or its message."""
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main.main([str(value) for value in argv]))
    return exit_.value.code


def preprocessed(dataset, *flags):
    assert preprocess.main(["--dataset", str(dataset), "--results", str(dataset.parent), "--n_jobs", "1", *flags]) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Preprocessed folders: labelled MRI, MRI of thick slices and two channels, and CT without labels."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_dataset(folder / "mri", Phantom(shape_dhw=(16, 24, 20), seed=3), cases=6)
    preprocessed(folder / "mri")
    write_dataset(folder / "thick", Phantom(shape_dhw=(12, 32, 24), spacing_mm=(4.0, 1.0, 1.0), channels=2), cases=3)
    preprocessed(folder / "thick")
    preprocessed(folder / "thick", "--dim", "2")
    write_dataset(folder / "whole", Phantom(shape_dhw=(16, 24, 20), seed=4, modality="CT"), cases=4)
    (folder / "whole" / "imagesTr").rename(folder / "ct")
    preprocessed(folder / "ct", "--modality", "CT")
    return folder


def pretrain(data, results, *flags):
    return run("--exec_mode", "pretrain", "--data", data, "--results", results, *SMALL, *TINY_WINDOWS, *flags)


@pytest.fixture(scope="module")
def pretrained(root, tmp_path_factory):
    """Results of two epochs on scans without labels."""
    results = tmp_path_factory.mktemp("pretrained")
    assert pretrain(root / "ct_3d", results, "--epochs", 2, "--learning_rate", 0.01) == 0
    return results


def records(results):
    lines = [json.loads(line.removeprefix("DLLL ")) for line in (results / "logs.json").read_text().splitlines()]
    return {r["step"] if isinstance(r["step"], int | str) else (): r["data"] for r in lines if r["type"] == "LOG"}


def test_pretraining_leaves_checkpoints_a_log_and_a_picture(pretrained):
    logged = records(pretrained)
    assert logged[1]["Val Loss"] < logged[0]["Val Loss"]
    assert {"Train Loss", "Min Val Loss", "Best epoch", "Spread %", "Data wait %"} <= set(logged[1])
    names = {path.name for path in (pretrained / "checkpoints").iterdir()}
    assert "last.ckpt" in names
    assert any(re.fullmatch(r"restoration-epoch=1-loss=0\.\d{5}\.ckpt", name) for name in names)
    content = torch.load(pretrained / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["kind"] == "restoration"
    assert content["settings"]["shuffle_windows"] == 20
    for epoch in (0, 1):
        assert (pretrained / f"restoration_epoch={epoch}.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_pretraining_equals_an_uninterrupted_one(root, pretrained, tmp_path):
    flags = ["--learning_rate", 0.01]
    assert pretrain(root / "ct_3d", tmp_path, "--epochs", 1, *flags) == 0
    assert pretrain(root / "ct_3d", tmp_path, "--epochs", 2, *flags, "--resume_training") == 0
    timing = {"Data wait %", "Train seconds"}
    whole, resumed = ({k: v for k, v in records(r)[1].items() if k not in timing} for r in (pretrained, tmp_path))
    assert whole == resumed
    states = [
        torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (pretrained, tmp_path)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert "--transformations" in pretrain(
        root / "ct_3d", tmp_path, "--epochs", 3, *flags, "--resume_training", "--methods", "flip"
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_weights_start_a_training_under_another_plan(root, pretrained, tmp_path, capsys, dim):
    """From isotropic CT to MRI of two channels and thick slices, with other filters and kernels, in 3D and 2D."""
    folder = root / f"thick_{dim}d"
    plan = Plan.load(folder)
    assert plan.in_channels == 2
    assert plan.patch_size != Plan.load(root / "ct_3d").patch_size
    assert plan.anisotropic or dim == 2
    flags = ["--exec_mode", "train", "--data", folder, "--results", tmp_path, "--dim", dim, *SMALL[:2], *SMALL[8:]]
    flags += ["--filters", 5, 8, "--depth", 1, "--epochs", 1, "--nvol", 1, "--nfolds", 3, "--loss", "dice"]
    assert run(*flags, "-w", pretrained / "checkpoints" / "last.ckpt") == 0
    printed = capsys.readouterr().out
    found = re.search(r"last.ckpt: a network of this program; (\d+\.\d) % of the encoder", printed)
    assert found
    assert float(found[1]) > 50
    assert "adapted encoder" in re.sub(r" +\d+\.\d %  ", " ", (tmp_path / "pretrained.txt").read_text())
    assert np.isfinite(records(tmp_path)[0]["Dice"])


def test_too_little_coverage_never_starts_from_scratch(root, pretrained, tmp_path):
    flags = ["--data", root / "mri_3d", "--results", tmp_path, *SMALL[:2], "--filters", 64, 128, 256, "--depth", 2]
    message = run(*flags, "--nfolds", 3, "-w", pretrained / "checkpoints" / "last.ckpt", "--epochs", 1)
    assert "less than the 50 % of --min_coverage" in message
    assert not (tmp_path / "checkpoints").exists()


def test_a_pretrained_network_does_not_predict(root, pretrained, tmp_path):
    checkpoint = pretrained / "checkpoints" / "last.ckpt"
    message = run("--exec_mode", "predict", "--ckpt_path", checkpoint, "--input", root / "ct", "--gpus", 0)
    assert "holds a network for restoration, not segmentation: start a training from it with --pretrained" in message


def test_cubes_are_made_and_learnt_from_by_the_published_network(root, tmp_path, capsys):
    flags = ["--exec_mode", "cubes", "--dataset", str(root / "ct"), "--results", str(tmp_path), "--scale", "3"]
    flags += ["--cube_size", "16", "16", "8", "--cube_folds", "2", "--no-tissue_filter"]
    assert preprocess.main(flags) == 0
    assert "12 cubes in 2 files" in capsys.readouterr().out
    cubes = tmp_path / "ct_cubes"
    argv = ["--exec_mode", "pretrain", "--cubes", cubes, "--cube_folds", 0, "--cube_val_folds", 1, "--gpus", 0]
    argv += ["--num_workers", 0, "--network", "genesis", "--batch_size", 3, "--epochs", 1, "--results", tmp_path / "r"]
    assert run(*argv, *TINY_WINDOWS, "--z_score", -775.8457, 251.9326, "--outputs", 2) == 0
    content = torch.load(tmp_path / "r" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["plan"]["patch_size"] == (8, 16, 16)
    assert content["state_dict"]["network.heads.0.weight"].shape == (2, 64, 1, 1, 1)
    assert content["global_step"] == 2  # six cubes, three a step


def test_few_training_cases_are_drawn_by_the_seed(root, tmp_path):
    flags = ["--data", root / "mri_3d", *SMALL[:-4], "--nfolds", 3, "--epochs", 1, "--steps_per_epoch", 1]
    assert run(*flags, "--results", tmp_path, "--train_cases", 2) == 0
    assert records(tmp_path)["PARAMETER"]["train_cases"] == 2
    assert "the fold has 4 training cases" in run(*flags, "--results", tmp_path, "--train_cases", 5)


def test_classification_of_ct_against_mri_from_pretrained_weights(root, pretrained, tmp_path, capsys):
    folder, plan = tmp_path / "both", Plan.load(root / "mri_3d")
    folder.mkdir()
    plan.save(folder)
    lines = ["case,label"]
    for source in ("ct_3d", "mri_3d"):
        for case in list_cases(root / source)[:4]:
            name = f"{source}_{case}"
            values = json.loads((root / source / f"{case}.json").read_text()) | {"case": name, "label": None}
            (folder / f"{name}.json").write_text(json.dumps(values))
            (folder / f"{name}_x.npy").write_bytes((root / source / f"{case}_x.npy").read_bytes())
            lines.append(f"{name},{source[:2].upper()}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    flags = ["--kind", "classification", "--labels_csv", table, "--data", folder, "--gpus", 0, "--nfolds", 2]
    weights = pretrained / "checkpoints" / "last.ckpt"
    learning = ["--epochs", 6, "--steps_per_epoch", 6, "--learning_rate", 0.003, "--hidden", 32, "-w", weights]
    assert run(*flags, *SMALL[2:-4], *learning, "--results", tmp_path / "r") == 0
    logged = records(tmp_path / "r")
    assert logged[5]["AUC"] == 1.0
    assert logged[5]["Val Loss"] < logged[0]["Val Loss"]
    best = next((tmp_path / "r" / "checkpoints").glob("classification-epoch=*-loss=*.ckpt"))
    assert run(*flags, "--exec_mode", "evaluate", "--ckpt_path", best, "--results", tmp_path / "e") == 0
    summary = json.loads((tmp_path / "e" / "classification.json").read_text())
    assert summary["auc"] == 1.0
    assert summary["scans"] == sum(map(sum, summary["confusion"])) == 4
    assert [set(scores) for scores in summary["by_class"].values()] == [{"accuracy", "auc", "auc_low", "auc_high"}] * 2
    assert "not segmentation" in run("--exec_mode", "evaluate", "--data", folder, "--ckpt_path", best, "--gpus", 0)

    predicting = ["--exec_mode", "predict", "--kind", "classification", "--ckpt_path", best, "--gpus", 0]
    assert run(*predicting, "--data", folder, "--results", tmp_path / "p") == 0
    rows = list(csv.DictReader((tmp_path / "p" / "predictions.csv").open()))
    assert [row["case"] for row in rows] == sorted(line.split(",")[0] for line in lines[1:])
    assert all(float(row["p(CT)"]) + float(row["p(MR)"]) == pytest.approx(1, abs=2e-6) for row in rows)
    assert all(row["class"] == ("CT" if float(row["p(CT)"]) > 0.5 else "MR") for row in rows)
    scored = {row["case"]: row["p(CT)"] for row in csv.DictReader((tmp_path / "e" / "classification.csv").open())}
    assert scored.items() <= {row["case"]: row["p(CT)"] for row in rows}.items()


def test_features_of_raw_and_of_preprocessed_scans(root, pretrained, tmp_path, capsys):
    flags = ["--exec_mode", "features", "--ckpt_path", pretrained / "checkpoints" / "last.ckpt", "--gpus", 0]
    scans = tmp_path / "scans"
    shutil.copytree(root / "ct", scans)
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    assert run(*flags, "--input", scans, "--results", tmp_path / "raw") == 1
    assert "broken" in capsys.readouterr().err
    values = np.load(tmp_path / "raw" / "features.npy")
    rows = list(csv.reader((tmp_path / "raw" / "features.csv").open()))
    assert [row[0] for row in rows] == ["case", *list_cases(root / "ct_3d")]
    assert values.dtype == np.float32 and values.shape == (len(rows) - 1, len(rows[0]) - 1)
    np.testing.assert_allclose(np.array([row[1:] for row in rows[1:]], float), values, rtol=1e-5)
    assert len(np.unique(values, axis=0)) == len(values)
    preprocessed(root / "ct", "--modality", "CT", "--results", str(tmp_path))  # as the scans above were, but padded
    assert run(*flags, "--data", tmp_path / "ct_3d", "--results", tmp_path / "again") == 0
    again = np.load(tmp_path / "again" / "features.npy")
    assert np.corrcoef(again.ravel(), values.ravel())[0, 1] > 0.99


def settings(*argv):
    return SimpleNamespace(**parse_main(argv).as_json())


def test_presets_are_the_published_settings_and_flags_win(tmp_path):
    genesis = settings("--preset", "models_genesis")
    published = {"exec_mode": "pretrain", "encoder": "genesis", "batch_size": 6, "optimizer": "sgd", "momentum": 0.9}
    published |= {"learning_rate": 1.0, "weight_decay": 0.0, "nesterov": False, "patience": 50, "epochs": 10000}
    published |= {"scheduler": "step", "step_epochs": 40, "patch_size": (32, 64, 64), "cube_folds": (0, 1, 2, 3, 4)}
    published |= {"cube_val_folds": (5, 6), "outputs": 1, "z_score": None}
    assert {name: getattr(genesis, name) for name in published} == published
    nnunet = settings("--preset", "genesis_nnunet", "--batch_size", "8")
    assert nnunet.batch_size == 8
    assert (nnunet.z_score, nnunet.outputs, nnunet.encoder) == ((-775.8457, 251.9326), 2, "unet")
    assert (nnunet.learning_rate, nnunet.patience, nnunet.step_epochs, nnunet.epochs) == (0.1, 20, 12, 1000)
    config = tmp_path / "run.toml"
    config.write_text("learning_rate = 0.5\npatience = 7\n")
    given = settings("--preset", "models_genesis", "--config", str(config), "--patience", "9")
    assert (given.learning_rate, given.patience, given.batch_size) == (0.5, 9, 6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cubes", "c"], "--cubes is for --exec_mode pretrain"),
        (["--kind", "classification"], "--kind classification needs --labels_csv"),
        (["--loss", "bce"], "--loss bce is not for --kind segmentation"),
        (["--exec_mode", "pretrain", "--patch_size", "8", "8"], "has not the 3 sides"),
        (["--exec_mode", "pretrain", "--cube_val_folds", "4"], "validation would see training cubes"),
        (["--exec_mode", "pretrain", "--deep_supervision"], "--deep_supervision is for --exec_mode train"),
        (["-w", "a", "--ckpt_path", "b"], "not both"),
        (["--loss", "dice", "--focal"], "exclude each other"),
    ],
)
def test_settings_that_contradict_each_other_are_named(argv, message, capsys):
    with pytest.raises(SystemExit):
        settings(*argv)
    assert message in capsys.readouterr().err


def test_wrong_transformation_settings_are_one_line(root, tmp_path, capsys):
    assert pretrain(root / "ct_3d", tmp_path, "--methods", "blur") == 2
    assert "error: --transformations blur cannot be used: blur is not a method" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"min_coverage 120.0 is not in 0\.\.100"):
        PROGRAM.read(["--min_coverage", "120"])


HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "Task04_Hippocampus"


def write_halves(folder, cases):
    """One half of each real scan, cut between its anterior and its posterior part; the lines of their table."""
    folder.mkdir()
    lines = ["case,label"]
    for number, case in enumerate(cases):
        image_cdhw, geometry = read_volume([HIPPOCAMPUS / "imagesTr" / f"{case}.nii.gz"])
        label = read_label(HIPPOCAMPUS / "labelsTr" / f"{case}.nii.gz")[0][0]
        rows = {value: np.argwhere(label == value)[:, 1].mean() for value in (1, 2)}
        cut, anterior = round((rows[1] + rows[2]) / 2), number % 2 == 0
        half = image_cdhw[0, :, cut:] if anterior == (rows[1] > rows[2]) else image_cdhw[0, :, :cut]
        write_volume(folder / f"{case}.nii.gz", half, Geometry.of(half.shape, geometry.spacing_mm, geometry.affine))
        lines.append(f"{case},{'anterior' if anterior else 'posterior'}")
    return lines


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="needs ../shared/data/Task04_Hippocampus")
def test_halves_of_real_scans_are_told_apart_from_pretrained_weights(pretrained, tmp_path):
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))[:40]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(write_halves(tmp_path / "halves", cases)) + "\n")
    preprocessed(tmp_path / "halves", "--modality", "MRI")
    flags = ["--kind", "classification", "--labels_csv", table, "--data", tmp_path / "halves_3d", *SMALL[:-4]]
    flags += ["--nfolds", 4, "--results", tmp_path, "-w", pretrained / "checkpoints" / "last.ckpt", "--hidden", 0]
    assert run(*flags, "--epochs", 1, "--steps_per_epoch", 60, "--batch_size", 4, "--learning_rate", 0.01) == 0
    summary = json.loads((tmp_path / "classification.json").read_text())
    assert summary["scans"] == 10
    assert summary["auc"] > 0.8
