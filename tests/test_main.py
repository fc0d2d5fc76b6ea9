"""The main job on made-up scans: train, resume, evaluate, predict, on one rank and on two."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import evaluate
import main
import preprocess
from cli.run import run_command
from data_preprocessing.phantom import Phantom, write_dataset

ROOT = Path(__file__).parents[1]
SMALL = "--gpus 0 --filters 4 8 16 --depth 2 --num_workers 0 --batch_size 2 --steps_per_epoch 2 --mirror_axes 2".split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight labelled and two test scans, about 16x24x20."""
    folder = tmp_path_factory.mktemp("phantom") / "Task91_Phantom"
    write_dataset(folder, Phantom(shape_dhw=(16, 24, 20), seed=3), cases=8)
    return folder


def preprocessed(dataset, *flags):
    results = dataset.parent
    assert preprocess.main(["--dataset", str(dataset), "--results", str(results), "--n_jobs", "1", *flags]) == 0


@pytest.fixture(scope="module")
def cases(dataset):
    preprocessed(dataset)
    preprocessed(dataset, "--exec_mode", "val")
    return dataset.parent / "Task91_Phantom_3d"


def run(*argv):
    """main.py in this process; its exit status, or its message."""
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main.main([str(value) for value in argv]))
    return exit_.value.code


def train(cases, results, *flags):
    return run("--data", cases, "--results", results, *SMALL, *flags)


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    """Results of two epochs."""
    results = tmp_path_factory.mktemp("results")
    assert train(cases, results, "--epochs", 2, "--amp", "--layout", "NDHWC", "--ema", 0.5) == 0
    return results


def records(results, name="logs.json"):
    """DLLogger's records, by epoch."""
    lines = [json.loads(line.removeprefix("DLLL ")) for line in (results / name).read_text().splitlines()]
    return {
        tuple(r["step"]) if isinstance(r["step"], list) else r["step"]: r["data"] for r in lines if r["type"] == "LOG"
    }


def test_training_leaves_the_documented_results(trained):
    logged = records(trained)
    assert set(logged) == {"PARAMETER", 0, 1}
    wanted = {"Dice", "Val Loss", "Max Dice", "Best epoch", "Train Loss", "D1", "D2", "Data wait %"}
    assert wanted <= set(logged[1])
    assert logged[1]["Train Loss"] < logged[0]["Train Loss"]
    assert json.loads((trained / "params.json").read_text())["filters"] == [4, 8, 16]
    names = {path.name for path in (trained / "checkpoints").iterdir()}
    assert "last.ckpt" in names
    assert any(re.fullmatch(r"epoch=\d-dice=\d+\.\d\d\.ckpt", name) for name in names)
    assert (trained / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoint_is_plain_and_knows_its_plan(trained):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["plan"]["mirror_axes"] == (2,)
    assert content["settings"]["ema"] == 0.5
    assert all(isinstance(value, torch.Tensor) for value in content["state_dict"].values())


def same_run(a, b):
    """Equal records, but for times and the share spent waiting."""
    timing = {"Data wait %", "Train seconds"}
    left, right = (
        {k: {n: v for n, v in r.items() if n not in timing} for k, r in log.items() if k != "PARAMETER"}
        for log in (a, b)
    )
    assert left == right


def test_killed_run_resumes_to_the_same_result(cases, tmp_path):
    flags = ["--epochs", "4", "--scheduler", "one_cycle", "--learning_rate", "0.003", "--ema", "0.9"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(cases, whole, *flags) == 0
    command = [sys.executable, ROOT / "main.py", "--data", cases, "--results", broken, *SMALL, *flags]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (broken / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert train(cases, broken, *flags, "--resume_training") == 0
    same_run(records(whole), records(broken))
    final = [torch.load(r / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (whole, broken)]
    assert all(torch.equal(final[0][key], final[1][key]) for key in final[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_in_one_line_and_the_run_goes_on(cases, tmp_path, workers):
    flags = ["--data", cases, "--results", tmp_path, *SMALL, "--num_workers", workers, "--epochs", 1000]
    command = [str(value) for value in (sys.executable, ROOT / "main.py", *flags)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # to the workers too, as a terminal does
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error
    epoch = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]
    said = re.fullmatch(r"stopped in epoch (\d+); --resume_training continues from the end of epoch (\d+) .+\n", error)
    assert said, error
    assert int(said[2]) == epoch
    assert int(said[1]) in (epoch, epoch + 1)


def test_each_epoch_is_logged_once_whatever_checkpoint_a_run_is_resumed_from(cases, tmp_path):
    def steps():
        return [json.loads(line[5:])["step"] for line in (tmp_path / "logs.json").read_text().splitlines()]

    flags = ["--learning_rate", "0.003", "--val_every", 2]
    assert train(cases, tmp_path, *flags, "--epochs", 3) == 0
    whole = records(tmp_path)
    (best,) = (tmp_path / "checkpoints").glob("epoch=1-*.ckpt")
    assert train(cases, tmp_path, *flags, "--epochs", 3, "--resume_training", "--ckpt_path", best) == 0
    same_run(whole, records(tmp_path))
    assert steps() == ["PARAMETER", 0, 1, "PARAMETER", 2]
    with (tmp_path / "logs.json").open("a") as stream:  # killed after an epoch's record, before its checkpoint
        stream.write('DLLL {"type": "LOG", "step": 3, "data": {"Train Loss": 1.0}}\n')
    assert train(cases, tmp_path, *flags, "--epochs", 4, "--resume_training") == 0
    assert steps() == ["PARAMETER", 0, 1, "PARAMETER", 2, "PARAMETER", 3]


def test_a_run_says_what_it_trains_and_where_it_left_its_checkpoints(cases, tmp_path, capsys):
    assert train(cases, tmp_path, "--epochs", 2, "--skip_first_n_eval", 1, "--amp") == 0
    printed = capsys.readouterr().out
    start = (
        r"segmentation: unet with filters 4 8 16, 0\.0\d M parameters; patch \d+x\d+x\d+, batch 2; 6 training and 2 "
    )
    start += r"validation cases; 2 steps an epoch, 2 epochs; CPU, (bf16|fp32)\n"
    assert re.search(start, printed)
    best = re.search(r"best checkpoint: (\S+/epoch=1-dice=\S+\.ckpt); last: (\S+/last\.ckpt)\n", printed)
    assert best
    assert Path(best[1]).is_file()
    assert "no Dice will be computed" not in printed
    assert train(cases, tmp_path, "--epochs", 3, "--skip_first_n_eval", 9, "--resume_training", "--amp") == 0
    printed = capsys.readouterr().out
    assert "2 steps an epoch, 3 epochs, from epoch 2 on; CPU" in printed
    assert "no Dice will be computed, and no best checkpoint kept: --skip_first_n_eval 9" in printed


def test_a_run_that_begins_anew_replaces_no_other(cases, trained):
    last = trained / "checkpoints" / "last.ckpt"
    before, log = last.read_bytes(), (trained / "logs.json").read_text()
    message = train(cases, trained, "--epochs", 1)
    assert f"{last} belongs to an earlier run" in message
    assert "--resume_training goes on" in message
    assert "another --results" in message
    assert (last.read_bytes(), (trained / "logs.json").read_text()) == (before, log)
    flags = ["--logname", "other.json"]
    assert train(cases, trained, *flags, "--epochs", 1, "--no-save_ckpt") == 0
    assert train(cases, trained, *flags, "--benchmark", "--train_batches", 4, "--warmup", 1) == 0
    assert last.read_bytes() == before


def test_resuming_under_other_settings_is_refused(cases, trained):
    message = train(cases, trained, "--epochs", 3, "--resume_training", "--seed", 2, "--amp", "--ema", 0.5)
    assert "it ran with --seed 1, not 2" in message
    assert "last.ckpt" in message


def test_raw_scans_become_label_maps_on_their_own_grid(dataset, trained, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    sources = sorted((dataset / "imagesTs").iterdir())
    for source in sources:
        (scans / source.name).write_bytes(source.read_bytes())
    (scans / "broken.nii.gz").write_bytes(sources[0].read_bytes()[:300])
    checkpoint = trained / "checkpoints" / "last.ckpt"
    flags = ["--exec_mode", "predict", "--ckpt_path", checkpoint, "--results", tmp_path / "out", "--gpus", 0]
    assert run(*flags, "--input", scans, "--save_probabilities", "--tta") == 1  # one scan is broken
    for source in sources:
        scan, label = nibabel.load(source), nibabel.load(tmp_path / "out" / source.name)
        assert label.shape == scan.shape
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_allclose(label.affine, scan.affine)
        probabilities = np.load(tmp_path / "out" / source.name.replace(".nii.gz", ".npy"))
        assert probabilities.shape == (3, *scan.shape[::-1])
    assert not (tmp_path / "out" / "broken.nii.gz").exists()
    assert run(*flags, "--input", sources[0]) == 0


def test_a_broken_scan_is_named(dataset, trained, tmp_path, capsys):
    broken = tmp_path / "cut.nii.gz"
    broken.write_bytes(next((dataset / "imagesTs").iterdir()).read_bytes()[:300])
    flags = ["--exec_mode", "predict", "--ckpt_path", trained / "checkpoints" / "last.ckpt", "--results", tmp_path]
    assert run(*flags, "--gpus", 0, "--input", broken) == 1
    assert "cut.nii.gz" in capsys.readouterr().err


def test_val_folder_predicts_the_folds_cases_and_prints_dice(cases, trained, tmp_path, capsys):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    flags = ["--exec_mode", "predict", "--data", cases / "val", "--results", tmp_path, "--fold", 1, "--gpus", 0]
    assert run(*flags, "--ckpt_path", checkpoint, "--task", 91) == 0
    written = sorted((tmp_path / "predictions_last_task=91_fold=1").glob("*.nii.gz"))
    assert len(written) == 2  # of eight cases in five folds
    assert re.search(r"Dice \d+\.\d\d over 2 cases \(organ \d+\.\d\d, lesion", capsys.readouterr().out)


def test_evaluation_repeats_the_training_runs_dice(cases, trained, tmp_path, capsys):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    flags = [
        "--exec_mode",
        "evaluate",
        "--data",
        cases,
        "--results",
        tmp_path,
        "--gpus",
        0,
        "--amp",
        "--layout",
        "NDHWC",
    ]
    assert run(*flags, "--ckpt_path", checkpoint, "--save_preds") == 0
    evaluated, logged = records(tmp_path)[()], records(trained)[1]
    classes = f"organ {evaluated['D1']:.2f}, lesion {evaluated['D2']:.2f}"
    assert f"Dice {evaluated['Dice']:.2f} over 2 cases ({classes})\n" in capsys.readouterr().out
    assert evaluated["Dice"] == pytest.approx(logged["Dice"], abs=1e-4)
    assert run(*flags, "--ckpt_path", checkpoint) == 0
    assert (tmp_path / "logs.json").read_text().count('"step": []') == 2  # evaluating does not erase a run's log
    assert evaluated["Val Loss"] == pytest.approx(logged["Val Loss"], abs=1e-4)
    assert len(list((tmp_path / "predictions_last_task=None_fold=0").glob("*.npy"))) == 2


def test_inverting_the_resampling_evaluates_on_the_original_label(cases, trained, tmp_path):
    flags = ["--exec_mode", "evaluate", "--data", cases, "--results", tmp_path, "--gpus", 0, "--invert_resampled_y"]
    assert run(*flags, "--ckpt_path", trained / "checkpoints" / "last.ckpt") == 0
    # One millimetre stays one millimetre here, so the label before resampling is the label after, without its padding.
    assert records(tmp_path)[()]["Dice"] == pytest.approx(records(trained)[1]["Dice"], abs=1.0)


def test_two_ranks_count_every_case_once(cases, trained, tmp_path):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    flags = ["--exec_mode", "evaluate", "--data", cases, "--gpus", 0, "--ckpt_path", checkpoint, "--nfolds", 2]
    assert run(*flags, "--results", tmp_path / "one") == 0
    two = [*flags, "--results", tmp_path / "two", "--cpu_ranks", 2, "--save_preds"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(ROOT / "main.py"), *map(str, two)], check=True, env=environment, timeout=240)
    one, two = records(tmp_path / "one")[()], records(tmp_path / "two")[()]
    assert two["Dice"] == pytest.approx(one["Dice"], abs=1e-4)
    assert two["Val Loss"] == pytest.approx(one["Val Loss"], abs=1e-5)
    assert len(list((tmp_path / "two" / "predictions_last_task=None_fold=0").glob("*.nii.gz"))) == 4


def test_two_ranks_train_and_one_goes_on(cases, tmp_path, capsys):
    command = [sys.executable, ROOT / "main.py", "--data", cases, "--results", tmp_path, *SMALL, "--cpu_ranks", 2]
    command += ["--epochs", 1, "--nfolds", 8]  # a single case to validate: the second rank has none
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(list(map(str, command)), check=True, env=environment, timeout=240)
    logged = records(tmp_path)
    assert set(logged) == {"PARAMETER", 0}  # rank 0 alone writes
    assert np.isfinite(logged[0]["Train Loss"])
    assert np.isfinite(logged[0]["Val Loss"])
    assert train(cases, tmp_path, "--epochs", 2, "--nfolds", 8, "--resume_training") == 0
    assert "warning: resumed on 1 GPUs (ranks) instead of 2" in capsys.readouterr().err
    assert set(records(tmp_path)) == {"PARAMETER", 0, 1}


def test_every_training_option_runs_together(cases, tmp_path, capsys):
    flags = "--deep_supervision --focal --res_block --norm batch --optimizer sgd --momentum 0.9 --scheduler polynomial"
    flags += (
        " --amp --gradient_clip_val 12 --skip_first_n_eval 1 --epochs 2 --profile --augment none --val_batch_size 2"
    )
    assert train(cases, tmp_path, *flags.split(), "--steps_per_epoch", 5, "--learning_rate", 0.01) == 0
    logged = records(tmp_path)
    assert "Dice" not in logged[0]
    assert "Dice" in logged[1]
    assert logged[1]["Learning rate"] < logged[0]["Learning rate"]
    assert (tmp_path / "trace.json").stat().st_size > 1000
    assert "Self CPU" in capsys.readouterr().out


def test_training_starts_from_a_checkpoint(cases, trained, tmp_path):
    flags = ["--ckpt_path", trained / "checkpoints" / "last.ckpt", "--epochs", 1, "--learning_rate", 1e-9]
    assert train(cases, tmp_path, *flags) == 0
    assert records(tmp_path)[0]["Dice"] == pytest.approx(records(trained)[1]["Dice"], abs=0.5)


def test_a_checkpoint_of_another_network_or_labels_without_regions_are_refused(cases, trained, tmp_path):
    message = train(cases, tmp_path, "--ckpt_path", trained / "checkpoints" / "last.ckpt", "--res_block")
    assert "holds another network" in message
    assert "that it was trained with (--res_block False, not True)" in message
    assert "this dataset has organ, lesion" in train(cases, tmp_path, "--brats")


def test_2d_network_on_volumes(dataset, tmp_path):
    preprocessed(dataset, "--dim", "2")
    cases = dataset.parent / "Task91_Phantom_2d"
    flags = ["--data", cases, "--dim", 2, "--gpus", 0, "--filters", 4, 8, "--depth", 1, "--num_workers", 0]
    flags += ["--results", tmp_path, "--steps_per_epoch", 2, "--epochs", 1]
    assert run(*flags, "--batch_size", 8, "--nvol", 4) == 0
    assert run(*flags, "--batch_size", 8, "--data2d_dim", 2, "--ckpt_store_dir", tmp_path / "single") == 0
    predict = ["--exec_mode", "predict", "--dim", 2, "--ckpt_path", tmp_path / "checkpoints" / "last.ckpt", "--gpus", 0]
    assert run(*predict, "--input", dataset / "imagesTs", "--results", tmp_path / "out", "--tta") == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_brats_regions_train_and_predict(tmp_path):
    folder = tmp_path / "Task92_Tumour"
    write_dataset(folder, Phantom(shape_dhw=(16, 24, 20), channels=2, seed=4), cases=5)
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "edema", "2": "enhancing tumour", "3": "non-enhancing tumour"}
    (folder / "dataset.json").write_text(json.dumps(description))
    preprocessed(folder)
    cases = tmp_path / "Task92_Tumour_3d"
    assert train(cases, tmp_path / "results", "--brats", "--epochs", 1) == 0
    assert {"D1", "D2", "D3"} <= set(records(tmp_path / "results")[0])
    checkpoint = tmp_path / "results" / "checkpoints" / "last.ckpt"
    out = tmp_path / "out"
    flags = ["--exec_mode", "predict", "--ckpt_path", checkpoint, "--gpus", 0, "--results", out, "--save_preds"]
    assert run(*flags, "--input", folder / "imagesTr") == 0
    written = sorted(out.glob("*.nii.gz"))
    assert len(written) == 5
    assert set(np.unique(nibabel.load(written[0]).dataobj)) <= {0, 1, 2, 3}

    def metrics(name):
        flags = ["--preds", out, "--lbls", folder / "labelsTr", "--results", tmp_path / name, "--n_jobs", 1]
        assert evaluate.main(list(map(str, flags))) == 0
        return [
            c["dice"]["mean"] for c in json.loads((tmp_path / name / "metrics.json").read_text())["classes"].values()
        ]

    from_labels = metrics("labels")
    for path in written:
        path.unlink()  # the probabilities of the regions are left
    # Half precision moves a few of the many voxels that so short a training leaves at 0.5.
    assert metrics("probabilities") == pytest.approx(from_labels, abs=0.02)


@pytest.mark.parametrize("mode", ["train", "predict"])
def test_benchmark_reports_throughput_and_latency(cases, tmp_path, mode):
    batches = "--train_batches" if mode == "train" else "--test_batches"
    flags = ["--exec_mode", mode, "--benchmark", "--data", cases, "--results", tmp_path, *SMALL[:-4], batches, 4]
    assert "nothing to measure" in run(*flags, "--logname", "none.json", "--warmup", 9)
    assert run(*flags, "--logname", "perf.json", "--warmup", 1) == 0
    result = records(tmp_path, "perf.json")[()]
    assert result[f"throughput_{mode}"] > 0
    assert result[f"latency_{mode}_99"] >= result[f"latency_{mode}_90"] > 0
    assert result[f"latency_{mode}_mean"] == pytest.approx(1000 * 2 / result[f"throughput_{mode}"], rel=1e-3)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(cases, tmp_path):
    message = train(cases, tmp_path, "--epochs", 3, "--optimizer", "sgd", "--learning_rate", 1e30)
    assert "no longer a finite number" in message
    assert "--learning_rate" in message


def test_bad_input_gets_one_message(cases, trained, tmp_path):
    assert "run preprocess.py first" in train(tmp_path, tmp_path / "r", "--epochs", 1)
    predict = ["--exec_mode", "predict", "--gpus", 0, "--results", tmp_path, "--ckpt_path"]
    assert "nowhere.ckpt does not exist" in run(*predict, "nowhere.ckpt", "--input", tmp_path)
    junk = tmp_path / "junk.ckpt"
    junk.write_bytes(b"no checkpoint at all")
    assert "junk.ckpt is no checkpoint" in run(*predict, junk, "--input", tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text("case,label\ncase_00,1\n")
    assert "labels.csv is no checkpoint" in run(*predict, table, "--input", tmp_path)
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, other)
    assert "other.ckpt holds weights of an unknown network" in run(*predict, other, "--input", tmp_path)
    assert "holds no scans" in run(*predict, trained / "checkpoints" / "last.ckpt", "--input", tmp_path)


def test_data_that_names_the_folder_above_gets_the_one_below_named(cases, tmp_path):
    message = run("--task", "7", "--data", tmp_path, "--results", tmp_path / "r", "--gpus", 0)
    assert "--task plays no part in finding it once --data is given; run preprocess.py first" in message
    (tmp_path / "07_3d").symlink_to(cases)
    message = run("--task", "7", "--data", tmp_path, "--results", tmp_path / "r", "--gpus", 0)
    assert f"give --data {tmp_path / '07_3d'}" in message


def test_a_pickled_checkpoint_runs_no_code(trained, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    evil = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, evil)
    message = run(
        "--exec_mode", "predict", "--gpus", 0, "--results", tmp_path, "--ckpt_path", evil, "--input", tmp_path
    )
    assert "evil.ckpt holds Python objects (posix.mkdir)" in message
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_plan_is_refused(cases, trained, tmp_path):
    plan = json.loads((cases / "plan.json").read_text()) | {"spacing_mm": [2.0, 1.0, 1.0]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    checkpoint = trained / "checkpoints" / "last.ckpt"
    message = run(
        "--exec_mode", "evaluate", "--data", tmp_path, "--results", tmp_path, "--ckpt_path", checkpoint, "--gpus", 0
    )
    assert "trained under another plan" in message
    assert "spacing_mm" in message
    for file in cases.glob("phantom_*"):
        (tmp_path / file.name).symlink_to(file)
    flags = ["--epochs", 3, "--amp", "--layout", "NDHWC", "--ema", 0.5, "--resume_training", "--ckpt_path", checkpoint]
    assert "trained under another plan" in train(tmp_path, tmp_path, *flags)
