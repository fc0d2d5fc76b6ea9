"""BraTS' folders and label values with gaps, from scans to label maps and scores."""

import json

import nibabel
import numpy as np
import pytest

import evaluate
import main
import preprocess
from cases.plan import Plan
from cases.volumes import read_label, write_volume
from cli.run import run_command
from data_preprocessing.phantom import Phantom, write_dataset
from scripts import fit_postprocessing

SMALL = "--gpus 0 --filters 4 8 16 --depth 2 --num_workers 0 --batch_size 2 --steps_per_epoch 2 --epochs 1".split()


def run(program, *argv):
    """A program in this process; its exit status, or its message."""
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: program.main([str(value) for value in argv]))
    return exit_.value.code


def values(folder):
    return set(np.concatenate([np.unique(nibabel.load(path).dataobj) for path in folder.glob("*.nii.gz")]).tolist())


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    """Six labelled cases in BraTS2021_train, two without label in BraTS2021_val, and the training cases prepared."""
    data = tmp_path_factory.mktemp("data")
    phantom = Phantom(shape_dhw=(16, 24, 20), channels=4, files="brats", seed=4)
    write_dataset(data / "BraTS2021_train", phantom, cases=6, test_cases=0)
    write_dataset(data / "BraTS2021_val", phantom, cases=0, test_cases=2)
    flags = ["--task", "11", "--data", data, "--results", data, "--ohe", "--n_jobs", 1, "--patch_size", 16, 24, 16]
    assert run(preprocess, *flags) == 0
    return data


@pytest.fixture(scope="module")
def trained(brats, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    assert run(main, "--data", brats / "11_3d", "--results", results, *SMALL, "--brats") == 0
    return results / "checkpoints" / "last.ckpt"


def test_brats_from_folders_to_scores(brats, trained, tmp_path, capsys):
    plan = Plan.load(brats / "11_3d")
    assert (plan.values, plan.in_channels) == ((0, 1, 2, 4), 5)
    stored = np.load(brats / "11_3d" / "BraTS2021_00000_y.npy")
    assert set(np.unique(stored)) == {0, 1, 2, 3}
    out = tmp_path / "out"
    flags = ["--exec_mode", "predict", "--ckpt_path", trained, "--gpus", 0, "--results", out, "--save_preds"]
    assert run(main, *flags, "--input", brats / "BraTS2021_val", "--min_component", "enhancing=50") == 0
    assert len(list(out.glob("*.nii.gz"))) == 2 and values(out) <= {0, 1, 2, 4}
    assert "does not hold" in run(main, *flags, "--input", brats / "BraTS2021_val", "--postprocessing", tmp_path / "no")

    flags = ["--exec_mode", "evaluate", "--data", brats / "11_3d", "--ckpt_path", trained, "--gpus", 0, "--save_preds"]
    assert run(main, *flags, "--results", tmp_path) == 0
    (preds,) = tmp_path.glob("predictions_*")
    assert values(preds) <= {0, 1, 2, 4}
    assert run(evaluate, "--preds", preds, "--lbls", brats / "11_3d", "--n_jobs", 1) == 0
    assert "necrotic core" in json.loads((preds / "metrics.json").read_text())["classes"]
    post = tmp_path / "post.json"
    assert fit_postprocessing.main(["--preds", str(preds), "--lbls", str(brats / "11_3d"), "--out", str(post)]) == 0
    assert set(json.loads(post.read_text())) == {"component", "volume"}
    assert "validation cases)" in capsys.readouterr().out


def test_an_unlabelled_folder_is_prepared_by_itself(brats, capsys):
    flags = ["--task", "12", "--data", brats, "--results", brats, "--ohe", "--n_jobs", 1]
    assert run(preprocess, *flags, "--exec_mode", "test") == 0
    assert Plan.load(brats / "12_3d" / "test").labels == Plan.load(brats / "11_3d").labels
    assert run(preprocess, *flags) == 1
    assert "only scans without labels: --exec_mode test" in capsys.readouterr().err


def test_a_missing_modality_costs_its_own_case(brats, tmp_path, capsys):
    phantom = Phantom(shape_dhw=(16, 24, 20), channels=4, files="brats", seed=4)
    write_dataset(tmp_path / "raw", phantom, cases=2, test_cases=0)
    (tmp_path / "raw" / "BraTS2021_00001" / "BraTS2021_00001_t1ce.nii.gz").unlink()
    assert run(preprocess, "--dataset", tmp_path / "raw", "--results", tmp_path, "--n_jobs", 1) == 1
    said = capsys.readouterr().err
    assert "BraTS2021_00001: " in said and "BraTS2021_00001_t1ce.nii.gz does not exist" in said
    assert (tmp_path / "raw_3d" / "BraTS2021_00000.json").is_file()


def test_names_that_contradict_the_challenge_are_refused_and_regions_help(brats, tmp_path):
    folder = tmp_path / "11_3d"
    folder.mkdir()
    for path in (brats / "11_3d").iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    (folder / "plan.json").unlink()
    wrong = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
    Plan.load(brats / "11_3d").with_(labels=wrong).save(folder)
    flags = ["--data", folder, "--results", tmp_path / "out", *SMALL]
    assert "value 1 is the necrotic core" in run(main, *flags, "--brats")
    assert "label files have 1, 2, 4" in run(main, *flags, "--regions", "whole=1,2,3")
    assert run(main, *flags, "--regions", "whole=1,2,4", "core=1,4", "enhancing=4") == 0
    resumed = [*flags[:-1], 2, "--resume_training"]
    assert "--regions" in run(main, *resumed, "--brats")
    assert run(main, *resumed, "--regions", "whole=1,2,4", "core=1,4", "enhancing=4") == 0


def test_label_values_with_gaps_come_back_in_what_is_written(tmp_path, capsys):
    folder = tmp_path / "Dataset"
    write_dataset(folder, Phantom(shape_dhw=(16, 24, 20), seed=4), cases=5, test_cases=0)
    table = np.array([0, 5, 700], np.uint16)
    for path in (folder / "labelsTr").iterdir():
        label, geometry = read_label(path)
        write_volume(path, table[label[0]], geometry)
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"0": "background", "5": "organ", "700": "lesion"}
    (folder / "dataset.json").write_text(json.dumps(description))
    label, geometry = read_label(folder / "labelsTr" / "phantom_004.nii.gz")
    label[0, 5, 5, 5] = 6
    write_volume(folder / "labelsTr" / "phantom_004.nii.gz", label[0], geometry)
    assert run(preprocess, "--dataset", folder, "--results", tmp_path, "--n_jobs", 1) == 1
    said = capsys.readouterr()
    assert "5 to 1, 700 to 2" in said.out
    assert "phantom_004: " in said.err and "label values [6] are not among the dataset's 0, 5, 700" in said.err
    cases, results = tmp_path / "Dataset_3d", tmp_path / "results"
    assert run(main, "--data", cases, "--results", results, *SMALL, "--nfolds", 2) == 0
    checkpoint, out = results / "checkpoints" / "last.ckpt", tmp_path / "out"
    flags = ["--exec_mode", "predict", "--ckpt_path", checkpoint, "--gpus", 0]
    assert run(main, *flags, "--input", folder / "imagesTr", "--results", out) == 0
    assert values(out) <= {0, 5, 700} and nibabel.load(out / "phantom_000.nii.gz").get_data_dtype() == np.uint16
    assert run(evaluate, "--preds", out, "--lbls", folder / "labelsTr", "--n_jobs", 1) == 1  # phantom_004's label
    assert set(json.loads((out / "metrics.json").read_text())["classes"]) == {"organ", "lesion"}
    assert "phantom_004.nii.gz holds class 6; the dataset's classes are 0, 5, 700" in capsys.readouterr().err
    assert run(main, *flags, "--data", cases, "--results", tmp_path / "stored") == 0
    assert "Dice" in capsys.readouterr().out
