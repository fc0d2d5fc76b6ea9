"""What an earlier revision wrote still loads, resumes and predicts the same: see files/README.md.

Only the programs in the repository's root and their flags are used, nothing of the packages behind them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("COMPAT_ROOT") or HERE.parents[1])
FILES = HERE / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
TIMES = {"Data wait %", "Train seconds"}

# Flags that each run was made with, see files/make.sh: a run goes on under the same ones only. FILES and WORK stand
# for folders.
SMALL = "--gpus 0 --num_workers 0 --filters 4 8 --depth 1 --nfolds 3 --optimizer sgd --momentum 0 --no-nesterov"
CLASSES = "--kind classification --labels_csv FILES/labels.csv --hidden 8"
PRETRAIN = f"--exec_mode pretrain {SMALL} --steps_per_epoch 6"
RESUMED = {
    "plain": "--config FILES/config.toml",
    "classification": f"{CLASSES} {SMALL} --norm batch --augment none --mirror_axes --learning_rate 0.1 "
    "--steps_per_epoch 20",
    "genesis": f"{PRETRAIN} --method genesis --optimizer adam --learning_rate 0.003 --batch_size 4 "
    "--genesis elastic_sigma=2",
    "autoencoder": f"{PRETRAIN} --method autoencoder --learning_rate 0.1 --patch_size 8 12 10 --scheduler plateau",
    "semantic": f"{PRETRAIN} --method semantic --learning_rate 0.05 --filters 1 1 --batch_size 4 "
    "--genesis elastic_sigma=2",
}
EVALUATED = {
    "plain": "--data FILES/cases_3d",
    "deep": "--data FILES/cases_3d",
    "residual": "--data FILES/cases_3d",
    "tumour": "--data FILES/tumour_3d --nfolds 2",
    "flat": "--data FILES/cases_2d --dim 2",
    "medicalnet": "--data FILES/medicalnet/cases_3d",
}
PREPROCESSED = {
    "cases_3d": "--patch_size 8 12 12",
    "cases_2d": "--dim 2 --patch_size 12 12 --float16",
    "medicalnet/cases_3d": "--recipe medicalnet --patch_size 8 12 10 --float16",
}
PATTERNS = "--classes 3 --instances 3 --val_instances 2 --cube_size 8 8 8 --border 0 0 0 --distance 2 --nfolds 3"
TRANSFERS = {"genesis": "--transfer all", "autoencoder": "", "semantic": "--transfer all --filters 1 1"}


def last(name: str) -> str:
    return f"--ckpt_path FILES/runs/{name}/checkpoints/last.ckpt"


def commands(work: Path) -> dict[str, list[str]]:
    """Every command line of this test by a name; results go to a folder of the name below ``work``."""
    lines = {}
    for name, flags in PREPROCESSED.items():
        target = f"WORK/preprocessed/{Path(name).parent}"
        lines[f"preprocess {name}"] = f"preprocess.py --dataset FILES/raw/cases --results {target} --n_jobs 1 {flags}"
    lines["patterns"] = (
        f"preprocess.py --exec_mode patterns --dataset WORK/patterns --no-tissue_filter {PATTERNS} "
        "--features FILES/runs/autoencoder/features.npy"
    )
    for name, flags in EVALUATED.items():
        results = f"WORK/evaluate_{name}"
        lines[f"evaluate {name}"] = (
            f"main.py --gpus 0 --exec_mode evaluate --nfolds 3 {flags} --results {results} {last(name)}"
        )
        scan = "FILES/tumour.nii.gz --save_probabilities" if name == "tumour" else "FILES/scan.nii.gz"
        more = "--tta" if name == "deep" else ""
        lines[f"predict {name}"] = (
            f"main.py --gpus 0 --exec_mode predict --input {scan} --results WORK/scan_{name} {last(name)} {more}"
        )
    lines["evaluate list"] = (
        f"main.py --gpus 0 --exec_mode evaluate --img_list FILES/list.txt --results WORK/list {last('medicalnet')}"
    )
    lines["evaluate folder"] = (
        f"main.py --gpus 0 --exec_mode predict --data FILES/cases_3d --results WORK/folder {last('plain')}"
    )
    lines["evaluate classification"] = (
        f"main.py --gpus 0 --exec_mode evaluate {CLASSES.removesuffix(' --hidden 8')} --nfolds 3 --data FILES/cases_3d "
        f"--results WORK/evaluate_classification {last('classification')}"
    )
    for name, flags in RESUMED.items():
        lines[f"resume {name}"] = (
            f"main.py --gpus 0 {flags} --data FILES/cases_3d --results WORK/{name} --epochs 2 --resume_training"
        )
    for name, flags in TRANSFERS.items():
        lines[f"transfer {name}"] = (
            f"main.py --gpus 0 --config FILES/config.toml --data FILES/cases_3d --results WORK/transfer_{name} "
            f"--epochs 1 --steps_per_epoch 1 --no-save_ckpt -w FILES/runs/{name}/checkpoints/last.ckpt {flags}"
        )
    lines["export"] = f"scripts/export.py {last('plain')} --to nnunet_v2 --out WORK/plain.pth"
    places = {"FILES/": f"{FILES}/", "WORK/": f"{work}/"}
    return {name: [_placed(word, places) for word in line.split()] for name, line in lines.items()}


def _placed(word: str, places: dict[str, str]) -> str:
    return next((word.replace(short, long) for short, long in places.items() if word.startswith(short)), word)


class Outcomes:
    """What the commands left in ``work`` and printed."""

    def __init__(self, work: Path, by_name: dict[str, dict[str, Any]]) -> None:
        self.work, self.by_name = work, by_name

    def output(self, name: str) -> str:
        """What a command printed; fails the test where the command failed."""
        outcome = self.by_name[name]
        assert outcome["status"] == 0, f"{name}: status {outcome['status']}\n{outcome['errors']}"
        return outcome["output"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """All commands run in one other process: its imports take longer than most of them."""
    work = tmp_path_factory.mktemp("compat")
    for name in RESUMED:  # a run goes on in its own folder
        shutil.copytree(FILES / "runs" / name, work / name)
    ignored = shutil.ignore_patterns("patterns")
    shutil.copytree(FILES / "cases_3d", work / "patterns", ignore=ignored)
    lines = commands(work)
    (work / "commands.json").write_text(json.dumps(list(lines.values())), encoding="utf-8")
    program = [sys.executable, HERE / "run_commands.py", work / "commands.json", work / "outcomes.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((work / "outcomes.json").read_text(encoding="utf-8"))
    return Outcomes(work, dict(zip(lines, found, strict=True)))


def records(results: Path) -> dict[str, dict[str, float]]:
    """Losses and scores by epoch, without times."""
    lines = [json.loads(line.removeprefix("DLLL ")) for line in (results / "logs.json").read_text().splitlines()]
    epochs = [(str(line["step"]), line["data"]) for line in lines if isinstance(line.get("step"), int)]
    assert len(epochs) == len(dict(epochs)), f"{results}/logs.json has an epoch twice"
    return {epoch: {k: v for k, v in data.items() if k not in TIMES} for epoch, data in epochs}


def check_label_map(path: Path, name: str) -> None:
    """A label map is the expected one, up to a voxel in 500 where another processor rounds otherwise."""
    with np.load(FILES / "label_maps.npz") as expected:
        wanted = expected[name]
    found = np.asarray(nibabel.load(path).dataobj)
    assert found.shape == wanted.shape, f"{path} has another shape"
    differ = int((found != wanted).sum())
    assert differ <= wanted.size / 500, f"{path}: {differ} of {wanted.size} voxels have another label"


@pytest.mark.parametrize("name", PREPROCESSED)
def test_preprocessing_writes_the_same_folder(outcomes: Outcomes, name: str) -> None:
    outcomes.output(f"preprocess {name}")
    made, wanted = outcomes.work / "preprocessed" / name, FILES / name
    arrays = sorted(path.name for path in wanted.glob("*.npy"))
    assert sorted(path.name for path in made.glob("*.npy")) == arrays, "other arrays are written"
    for array in arrays:
        new, old = np.load(made / array), np.load(wanted / array)
        assert new.dtype == old.dtype and new.shape == old.shape, f"{array} has another type or shape"
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-3 if new.dtype == np.float16 else 1e-5, err_msg=array)
    for path in sorted(wanted.glob("*.json")):
        new, old = (json.loads((folder / path.name).read_text(encoding="utf-8")) for folder in (made, wanted))
        differ = [key for key in old if key != "seconds" and not alike(new.get(key), old[key])]
        assert not differ, f"{path.name}: {differ} changed"


def alike(new: Any, old: Any) -> bool:
    """Equal, numbers up to rounding; keys may have joined."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and alike(new[key], old[key]) for key in old)
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(alike, new, old))
    return new == (pytest.approx(old, rel=1e-5, abs=1e-7, nan_ok=True) if isinstance(old, float) else old)


def test_the_same_patterns_are_found(outcomes: Outcomes) -> None:
    outcomes.output("patterns")
    made, wanted = outcomes.work / "patterns" / "patterns", FILES / "cases_3d" / "patterns"
    new, old = (np.load(folder / "patterns_fold0.npy") for folder in (made, wanted))
    np.testing.assert_array_equal(new, old, "the index has other cubes")
    new, old = (json.loads((folder / "patterns_fold0.json").read_text(encoding="utf-8")) for folder in (made, wanted))
    assert alike(new, old), "the index has another description"


@pytest.mark.parametrize("name", EXPECTED["dice"])
def test_a_checkpoint_has_the_same_dice(outcomes: Outcomes, name: str) -> None:
    line = re.search(r"^Dice (\S+) over \d+ cases \((.*)\)$", outcomes.output(f"evaluate {name}"), re.MULTILINE)
    assert line, "no Dice is printed"
    parts = [("Dice", line[1]), *(words.rsplit(" ", 1) for words in line[2].split(", "))]
    assert {label: float(dice) for label, dice in parts} == pytest.approx(EXPECTED["dice"][name], abs=0.2)


@pytest.mark.parametrize("name", EVALUATED)
def test_a_scan_gets_the_same_label_map(outcomes: Outcomes, name: str) -> None:
    outcomes.output(f"predict {name}")
    scan = "tumour.nii.gz" if name == "tumour" else "scan.nii.gz"
    check_label_map(outcomes.work / f"scan_{name}" / scan, name)
    affines = [nibabel.load(folder / scan).affine for folder in (FILES, outcomes.work / f"scan_{name}")]
    np.testing.assert_allclose(*affines, atol=1e-5, err_msg="the label map lies elsewhere than its scan")


def test_regions_and_probabilities_are_the_same(outcomes: Outcomes) -> None:
    outcomes.output("predict tumour")
    regions = [json.loads((folder / "regions.json").read_text()) for folder in (FILES, outcomes.work / "scan_tumour")]
    assert regions[0] == regions[1], "regions.json changed"
    means = np.load(outcomes.work / "scan_tumour" / "tumour.npy").astype(np.float64).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, EXPECTED["mean_probabilities"], atol=1e-3)


def test_a_preprocessed_folder_gets_the_same_label_maps(outcomes: Outcomes) -> None:
    outcomes.output("evaluate folder")
    written = sorted((outcomes.work / "folder" / "predictions_last_task=None_fold=0").glob("*.nii.gz"))
    assert len(written) == 6, "a label map for each of six cases"
    for path in written:
        check_label_map(path, path.name.removesuffix(".nii.gz"))


def test_a_classifier_gives_the_same_probabilities(outcomes: Outcomes) -> None:
    outcomes.output("evaluate classification")
    folder, wanted = outcomes.work / "evaluate_classification", EXPECTED["classification"]
    summary = json.loads((folder / "classification.json").read_text(encoding="utf-8"))
    assert alike(summary, wanted["summary"]), "accuracy, AUC or confusion matrix changed"
    new, old = ((folder / "classification.csv").read_text(encoding="utf-8").splitlines(), wanted["rows"])
    assert new[0] == old[0], "classification.csv has another heading"
    for new_row, old_row in zip((row.split(",") for row in new[1:]), (row.split(",") for row in old[1:]), strict=True):
        assert (new_row[0], new_row[-1]) == (old_row[0], old_row[-1]), "other scans or targets"
        numbers = [[float(value) for value in row[1:-1]] for row in (new_row, old_row)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4), f"{new_row[0]} has other probabilities"


@pytest.mark.parametrize("name", RESUMED)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(outcomes: Outcomes, name: str) -> None:
    outcomes.output(f"resume {name}")
    new, old = records(outcomes.work / name), EXPECTED["resumed"][name]["records"]
    assert set(new) == set(old) == {"0", "1"}, "each epoch is logged once"
    for key, value in old["1"].items():
        # The loss is summed in another order than before: after 25 steps of AdamW a voxel or two decide otherwise.
        dice = name == "plain" and key in ("Dice", "Max Dice", "D1", "D2")
        near = {"abs": 0.5} if dice else {"rel": 2e-4 if name == "plain" else 1e-4, "abs": 1e-6}
        assert new["1"].get(key) == pytest.approx(value, nan_ok=True, **near), f"epoch 1 has another {key}"
    content = torch.load(outcomes.work / name / "checkpoints" / "last.ckpt", weights_only=True)
    state = {key: tensor.double() for key, tensor in content["state_dict"].items()}
    wanted = EXPECTED["resumed"][name]["sums"]
    assert list(state) == list(wanted), "the weights have other names"
    for key, sums in wanted.items():
        found = [float(state[key].sum()), float(state[key].square().sum())]
        near = {"rel": 5e-3, "abs": 0.1} if name == "plain" else {"rel": 1e-4, "abs": 1e-5}
        assert found == pytest.approx(sums, **near), f"{key} learnt something else"


def test_the_autoencoder_ends_in_the_same_features(outcomes: Outcomes) -> None:
    outcomes.output("resume autoencoder")
    new, old = (folder / "autoencoder" for folder in (outcomes.work, FILES / "runs"))
    np.testing.assert_allclose(np.load(new / "features.npy"), np.load(old / "features.npy"), rtol=1e-3, atol=1e-5)
    assert json.loads((new / "features.json").read_text()) == json.loads((old / "features.json").read_text())


@pytest.mark.parametrize("name", RESUMED)
def test_params_json_keeps_its_names_and_values(outcomes: Outcomes, name: str) -> None:
    outcomes.output(f"resume {name}")
    new, old = (json.loads((folder / name / "params.json").read_text()) for folder in (outcomes.work, FILES / "runs"))
    changed = {"data", "results", "config", "labels_csv", "epochs", "resume_training"}
    differ = {key: new[key] for key in old.keys() & new.keys() - changed if new[key] != old[key]}
    assert not differ, "params.json holds other values"
    line = (FILES / "config.toml").read_text(encoding="utf-8") if name == "plain" else RESUMED[name].replace("--", " ")
    given = {key for key in old if re.search(rf"\b{key}\b", line)} - {"genesis", "method"}  # now by their fields
    assert given <= new.keys(), "params.json lost settings that the run was given"


@pytest.mark.parametrize("name", TRANSFERS)
def test_as_many_weights_are_taken_over(outcomes: Outcomes, name: str) -> None:
    outcomes.output(f"transfer {name}")
    report = (outcomes.work / f"transfer_{name}" / "pretrained.txt").read_text(encoding="utf-8").splitlines()
    assert report == EXPECTED["transfer"][name], "pretrained.txt tells another fate of the weights"


def test_the_export_for_nnunet_has_the_same_layout(outcomes: Outcomes) -> None:
    outcomes.output("export")
    weights = torch.load(outcomes.work / "plain.pth", weights_only=True)["network_weights"]
    assert {key: list(tensor.shape) for key, tensor in weights.items()} == EXPECTED["nnunet_v2"]
