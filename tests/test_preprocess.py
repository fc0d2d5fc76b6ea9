"""The command: what it writes, how it goes on after a kill, and what it says of bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cases.case import list_cases, open_array, read_info
from cases.plan import Plan
from cases.volumes import Geometry, write_volume
from data_preprocessing.phantom import Phantom, draw, write_dataset
from preprocess import main

ROOT = Path(__file__).parents[1]
SMALL = Phantom(shape_dhw=(12, 16, 20))


def contents(folder):
    """Bytes of every file, the json without its seconds."""
    found = {}
    for path in sorted(folder.iterdir()):
        found[path.name] = path.read_bytes()
        if path.suffix == ".json":
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
    return found


def test_a_task_that_the_decathlon_has_not(tmp_path, capsys):
    write_dataset(tmp_path / "data" / "Task21_Mine", SMALL, cases=3)
    flags = f"--data {tmp_path}/data --results {tmp_path}/out --task 21 --name Task21_Mine --n_jobs 1 --verbose".split()
    assert main(flags) == 0
    folder = tmp_path / "out" / "21_3d"
    plan = Plan.load(folder)
    assert (plan.name, plan.dataset, plan.n_class) == ("21_3d", "Task21_Mine", 3)
    assert list_cases(folder) == ["phantom_000", "phantom_001", "phantom_002"]
    image = open_array(folder, "phantom_001", "x")
    info = read_info(folder, "phantom_001")
    assert image.dtype == np.float32 and image.shape == (1, *info.shape_stored)
    assert min(np.array(image.shape[1:]) - plan.patch_size) >= 0
    assert info.images == ("phantom_001.nii.gz",) and info.label == "phantom_001.nii.gz"
    out = capsys.readouterr().out
    assert "phantom_002: (" in out and "3 cases in" in out and "seconds a case" in out


def test_val_and_test_cases_follow_the_training_plan_without_padding(tmp_path, capsys):
    write_dataset(tmp_path / "mine", SMALL, cases=3, test_cases=2)
    flags = f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1".split()
    for mode in ("training", "val", "test"):
        assert main([*flags, "--exec_mode", mode]) == 0
    root = tmp_path / "mine_3d"
    assert Plan.load(root) == Plan.load(root / "val") == Plan.load(root / "test")
    assert list_cases(root / "val") == list_cases(root)
    assert list_cases(root / "test") == ["phantom_003", "phantom_004"]
    for case in list_cases(root / "val"):
        info = read_info(root / "val", case)
        assert info.shape_stored == info.shape_resampled == open_array(root / "val", case, "y").shape[1:]
    assert not (root / "test" / "phantom_003_y.npy").exists()
    assert main([*flags, "--exec_mode", "val", "--ohe"]) == 1
    assert "preprocess both alike" in capsys.readouterr().err


def test_float16_and_ohe_in_2d(tmp_path):
    write_dataset(tmp_path / "mine", SMALL, cases=2)
    flags = f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1 --dim 2 --ohe --float16".split()
    assert main(flags) == 0
    image = open_array(tmp_path / "mine_2d", "phantom_000", "x")
    assert image.dtype == np.float16 and len(image) == 2
    assert set(np.unique(image[1])) == {0, 1}


def test_scans_that_come_prepared_stay_as_they_are(tmp_path, capsys):
    write_dataset(tmp_path / "mine", Phantom(shape_dhw=(12, 16, 20), channels=2, spacing_mm=(3, 1, 1)), cases=3)
    flags = f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1".split()
    kept = [*flags, *"--no-resample --no-crop --normalize none rescale --patch_size 8 8 16".split()]
    assert main(kept) == 0
    folder = tmp_path / "mine_3d"
    plan = Plan.load(folder)
    assert [how.scheme for how in plan.normalization] == ["none", "rescale"]
    assert (plan.resample, plan.crop, plan.patch_size) == (False, False, (8, 8, 16))
    assert "voxels as scanned, whole scans, patch 8 x 8 x 16" in capsys.readouterr().out.replace("\n", " ")
    image, label, geometry = draw(Phantom(shape_dhw=(12, 16, 20), channels=2, spacing_mm=(3, 1, 1)), 1)
    stored = open_array(folder, "phantom_001", "x")
    np.testing.assert_array_equal(stored[0], image[0])
    low, high = image[1].min(), image[1].max()
    np.testing.assert_allclose(stored[1], (image[1] - low) / (high - low), atol=1e-6)
    np.testing.assert_array_equal(open_array(folder, "phantom_001", "y"), label)
    info = read_info(folder, "phantom_001")
    assert info.crop_box == ((0, 0, 0), geometry.shape_dhw) and info.spacing_mm == geometry.spacing_mm

    assert main([*flags, "--exec_mode", "val"]) == 0  # what is not said, the plan decides
    np.testing.assert_array_equal(open_array(folder / "val", "phantom_001", "x"), stored)
    assert main([*flags, "--exec_mode", "val", "--normalize", "zscore", "--spacing", "1", "1", "1"]) == 1
    assert "is of --normalization none rescale --spacing 3 1 1; preprocess both alike" in capsys.readouterr().err
    assert main([*flags, "--normalize", "ct", "zscore", "none"]) == 1
    assert "--normalization names 3, but scans of mine have 2 channels" in capsys.readouterr().err


def test_a_voxel_size_of_ones_own(tmp_path, capsys):
    write_dataset(tmp_path / "mine", SMALL, cases=2)
    flags = f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1".split()
    assert main([*flags, *"--spacing 2 1.5 1 --no-crop".split()]) == 0
    plan = Plan.load(tmp_path / "mine_3d")
    assert plan.spacing_mm == (2.0, 1.5, 1.0)
    info = read_info(tmp_path / "mine_3d", "phantom_000")
    sides_mm = np.array(info.geometry.shape_dhw) * info.geometry.spacing_mm
    assert info.crop_box == ((0, 0, 0), info.geometry.shape_dhw)
    np.testing.assert_allclose(info.shape_resampled, sides_mm / plan.spacing_mm, atol=0.5)
    assert main([*flags, "--exec_mode", "val", "--no-resample"]) == 1
    assert "is of --resample; preprocess both alike" in capsys.readouterr().err
    for wrong, told in (
        ("1 1 1 --no-resample", "--spacing changes nothing with --no-resample"),
        ("1 1 1 --dim 2", "--spacing changes nothing with --dim 2"),
        ("0 1 1", "--spacing 0.0 1.0 1.0 is not above 0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*flags, "--spacing", *wrong.split()])
        assert told in capsys.readouterr().err
    assert main([*flags, "--recipe", "medicalnet", "--no-crop"]) == 1
    assert "recipe medicalnet crops and resizes its own way" in capsys.readouterr().err


def test_scans_without_labels_or_description(tmp_path, capsys):
    write_dataset(tmp_path / "all", Phantom(shape_dhw=(12, 16, 20), modality="CT"), cases=2)
    assert main(f"--dataset {tmp_path}/all/imagesTr --results {tmp_path} --n_jobs 1".split()) == 0
    plan = Plan.load(tmp_path / "imagesTr_3d")
    assert plan.channels == ("CT",) and plan.labels == ("background",) and plan.intensities_from == "not air"
    assert "Modality taken for CT by its intensities" in capsys.readouterr().out
    assert not (tmp_path / "imagesTr_3d" / "phantom_000_y.npy").exists()


def test_whole_cases_are_kept_and_those_of_another_plan_made_anew(tmp_path, capsys):
    write_dataset(tmp_path / "mine", SMALL, cases=3)
    flags = f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1".split()
    folder = tmp_path / "mine_3d"
    assert main(flags) == 0
    before = contents(folder)
    (folder / "phantom_001_x.npy").write_bytes(b"cut short")
    assert main(flags) == 0
    assert "3 cases in" in (out := capsys.readouterr().out) and "2 of them from an earlier run" in out
    assert contents(folder) == before
    assert main([*flags, "--ohe"]) == 0
    assert "3 cases in" in (out := capsys.readouterr().out) and "are made anew: their plan was another" in out
    assert len(open_array(folder, "phantom_000", "x")) == 2


def test_a_killed_run_continues_to_the_same_result(tmp_path):
    write_dataset(tmp_path / "mine", Phantom(shape_dhw=(24, 40, 40)), cases=60)
    command = [sys.executable, str(ROOT / "preprocess.py"), "--dataset", str(tmp_path / "mine"), "--n_jobs", "1"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, "--results", str(killed)], stdout=subprocess.DEVNULL)
    folder = killed / "mine_3d"
    deadline = time.monotonic() + 60
    while not list(folder.glob("phantom_*.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list_cases(folder)) < 60
    for results in (killed, whole):
        assert main(["--dataset", str(tmp_path / "mine"), "--results", str(results), "--n_jobs", "1"]) == 0
    assert contents(folder) == contents(whole / "mine_3d")


def spoil(folder):
    """A dataset of eight cases, the first six bad in six ways."""
    write_dataset(folder, SMALL, cases=8, test_cases=0)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    drawn = [draw(SMALL, index) for index in range(6)]
    content = (images / "phantom_000.nii.gz").read_bytes()
    (images / "phantom_000.nii.gz").write_bytes(content[: len(content) // 2])
    _, label, geometry = drawn[1]
    write_volume(labels / "phantom_001.nii.gz", label[0, 1:], Geometry.of(label[0, 1:].shape, (1, 1, 1), np.eye(4)))
    _, label, geometry = drawn[2]
    moved = geometry.affine_array + np.diag([0, 0, 0, 1])[[0, 1, 3, 2]] * 5
    write_volume(labels / "phantom_002.nii.gz", label[0], Geometry.of(label[0].shape, (1, 1, 1), moved))
    _, label, geometry = drawn[3]
    write_volume(labels / "phantom_003.nii.gz", label[0] * 4, geometry)
    image, _, geometry = drawn[4]
    image[0, 2, 3, 4] = np.nan
    write_volume(images / "phantom_004.nii.gz", image[0], geometry)
    (images / "phantom_005.nii.gz").unlink()


def test_names_whose_files_would_be_others_are_refused(tmp_path, capsys):
    write_dataset(tmp_path / "mine", SMALL, cases=4)
    names = {"phantom_001": "phantom_000_orig", "phantom_002": "plan"}
    for folder in ("imagesTr", "labelsTr"):
        for old, new in names.items():
            (tmp_path / "mine" / folder / f"{old}.nii.gz").rename(tmp_path / "mine" / folder / f"{new}.nii.gz")
    text = (tmp_path / "mine" / "dataset.json").read_text()
    for old, new in names.items():
        text = text.replace(f"{old}.nii.gz", f"{new}.nii.gz")
    (tmp_path / "mine" / "dataset.json").write_text(text)
    assert main(f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1".split()) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: 2 of 4 cases cannot be used:",
        "  phantom_000_orig: its label's file would be phantom_000_orig_y.npy, which is phantom_000's; rename the case",
        "  plan: plan.json is the folder's own file, not a case's; rename the case",
    ]
    folder = tmp_path / "mine_3d"
    assert list_cases(folder) == ["phantom_000", "phantom_003"] and Plan.load(folder).dataset == "mine"
    assert open_array(folder, "phantom_000", "orig_y").shape[1:] == read_info(folder, "phantom_000").shape_cropped


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_bad_case_is_listed_at_once_and_the_good_ones_are_done(tmp_path, capsys, n_jobs):
    spoil(tmp_path / "mine")
    assert main(f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs {n_jobs}".split()) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "error: 6 of 8 cases cannot be used:"
    expected = {
        "phantom_000": "imagesTr/phantom_000.nii.gz is damaged, cut short or of another format (the compressed data "
        "end too early)",
        "phantom_001": "labelsTr/phantom_001.nii.gz do not match: shapes",
        "phantom_002": "labelsTr/phantom_002.nii.gz do not match: affines differ: corners lie up to 5 mm apart",
        "phantom_003": "labelsTr/phantom_003.nii.gz: label values [4, 8] are not among the dataset's 0 to 2; relabel, "
        'or add them to "labels" in dataset.json',
        "phantom_004": "imagesTr/phantom_004.nii.gz: 1 voxels are NaN or infinite",
        "phantom_005": "imagesTr/phantom_005.nii.gz does not exist",
    }
    for line, (case, message) in zip(err[1:], expected.items(), strict=True):
        assert line.startswith(f"  {case}: ") and message in line
    assert list_cases(tmp_path / "mine_3d") == ["phantom_006", "phantom_007"]


def test_nothing_but_bad_cases_are_still_listed(tmp_path, capsys):
    spoil(tmp_path / "mine")
    for index in (6, 7):
        (tmp_path / "mine" / "imagesTr" / f"phantom_{index:03d}.nii.gz").unlink()
    assert main(f"--dataset {tmp_path}/mine --results {tmp_path} --n_jobs 1".split()) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "error: 8 of 8 cases cannot be used:" and len(err) == 9
    assert not (tmp_path / "mine_3d").exists()


def test_nothing_to_do_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(f"--dataset {tmp_path}/empty --results {tmp_path}".split()) == 1
    assert main(f"--data {tmp_path} --results {tmp_path} --task 04".split()) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and first.endswith("neither dataset.json nor image files nor DICOM folders")
    assert "Task04_Hippocampus is not a folder" in second
    assert not (tmp_path / "empty_3d").exists()
