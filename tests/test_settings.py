import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from inference.evaluation import EvaluateSettings
from settings import (
    DownloadSettings,
    MainSettings,
    PreprocessSettings,
    SettingsError,
    as_json,
    parse,
    preprocessed_folder,
    setting,
)


def main_settings(*argv: str) -> MainSettings:
    return parse(MainSettings, argv, "main")


def test_defaults_are_the_documented_ones():
    given = as_json(main_settings())
    expected = {
        "exec_mode": "train", "data": "/data", "results": "/results", "logname": None, "task": None, "nodes": 1,
        "learning_rate": 0.0008, "gradient_clip_val": 0, "negative_slope": 0.01, "tta": False, "brats": False,
        "deep_supervision": False, "deep_supr_num": 2, "more_chn": False, "invert_resampled_y": False, "amp": False,
        "benchmark": False, "train_batches": 0, "test_batches": 0, "warmup": 5, "focal": False,
        "sync_batchnorm": False, "nfolds": 5, "fold": 0, "seed": 1, "skip_first_n_eval": 0, "ckpt_path": None,
        "resume_training": False, "patience": 100, "batch_size": 2, "val_batch_size": 4, "profile": False,
        "momentum": 0.99, "weight_decay": 0.0001, "save_preds": False, "dim": 3, "data2d_dim": 3, "nvol": 4,
        "num_workers": 8, "epochs": 1000, "min_epochs": 0, "config": None, "ckpt_store_dir": None,
        "norm": "instance", "depth": 5, "min_fmap": 4, "filters": None, "res_block": False, "oversampling": 0.4,
        "overlap": 0.5, "blend": "gaussian", "affinity": "socket_unique_continuous", "scheduler": "none",
        "optimizer": "adam", "layout": "NCDHW",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected


def test_every_setting_of_every_command_is_json_able():
    for kind, argv in (
        (MainSettings, []),
        (PreprocessSettings, ["--task", "04"]),
        (DownloadSettings, ["--list"]),
        (EvaluateSettings, ["--preds", "a", "--lbls", "b"]),
    ):
        values = as_json(parse(kind, argv, ""))
        assert json.loads(json.dumps(values)).keys() == values.keys()


def test_flags_become_typed_values():
    given = main_settings(
        "--filters", "16", "32", "--mirror_axes", "--max_epochs", "3", "--scheduler", "--no-save_ckpt"
    )
    assert given.filters == (16, 32)
    assert given.mirror_axes == ()
    assert given.epochs == 3
    assert given.scheduler == "cosine"
    assert given.save_ckpt is False
    assert main_settings("--scheduler", "one_cycle").scheduler == "one_cycle"


def test_all_faults_come_in_one_message(capsys):
    with pytest.raises(SystemExit) as exit_:
        main_settings("--fold", "7", "--exec_mode", "predict", "--oversampling", "2", "--batch_size", "0")
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    for part in ("--fold 7", "--ckpt_path", "--oversampling 2.0", "--batch_size 0"):
        assert part in message


def test_unknown_and_abbreviated_flags_are_refused(capsys):
    for flag in ("--fuld", "--epoch"):
        with pytest.raises(SystemExit):
            main_settings(flag, "1")
        assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--step_per_epoch", "3"], "unrecognized arguments: --step_per_epoch: did you mean --steps_per_epoch?"),
        (["--batch-size=3"], "unrecognized arguments: --batch-size=3: did you mean --batch_size?"),
        (["--no-save_ckp"], "did you mean --no-save_ckpt?"),
        (["--zzz"], "unrecognized arguments: --zzz\n"),
        (["-w", "a.ckpt", "b.ckpt"], "-w takes one value (one file), not these 2: a.ckpt, b.ckpt"),
        (["stray", "--amp"], "values without a flag: stray"),
        (["--amp", "yes"], "unrecognized arguments: yes"),
    ],
)
def test_a_misspelt_flag_or_a_value_too_many_gets_a_hint(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main_settings(*argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'epochs = 7\nfilters = [8, 16]\nresults = "r"\n'),
        ("a.json", '{"epochs": 7, "filters": [8, 16], "results": "r"}'),
    ],
)
def test_config_file_is_read_and_flags_win(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    given = main_settings("--config", str(path), "--epochs", "9")
    assert (given.epochs, given.filters, given.results) == (9, (8, 16), Path("r"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 1}', "unknown settings epoch: did you mean epochs?"),
        ('{"epochs": "many"}', "epochs = 'many' does not fit"),
        ('{"amp": 1}', "amp = 1 does not fit"),
        ('{"blend": "sharp"}', "blend = 'sharp' does not fit"),
        ("[1", "neither TOML"),
        ("[1]", "does not hold names"),
    ],
)
def test_bad_config_files_are_named(tmp_path, capsys, text, message):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(SystemExit):
        main_settings("--config", str(path))
    error = capsys.readouterr().err
    assert message in error
    assert "c.json" in error


def test_missing_config_file_is_named(capsys):
    with pytest.raises(SystemExit):
        main_settings("--config", "nowhere.toml")
    assert "nowhere.toml: No such file" in capsys.readouterr().err


def test_required_fields_and_choices():
    @dataclass(frozen=True, kw_only=True)
    class Small:
        path: Path = setting(help="a path")
        size: Literal[2, 3] = setting(3, "100 % of it")

    assert parse(Small, ["--path", "x", "--size", "2"], "") == Small(path=Path("x"), size=2)
    with pytest.raises(SystemExit):
        parse(Small, [], "")
    with pytest.raises(SystemExit):
        parse(Small, ["--path", "x", "--size", "4"], "")


def test_preprocessed_folder_follows_the_task_only_where_data_is_left_alone():
    assert preprocessed_folder(Path("/data"), "04", 3) == Path("/data/04_3d")
    assert preprocessed_folder(Path("/elsewhere/04_3d"), "04", 3) == Path("/elsewhere/04_3d")
    assert preprocessed_folder(Path("/data"), None, 3) == Path("/data")
    predict = MainSettings(exec_mode="predict", task="4", dim=2, ckpt_path=Path("c.ckpt"))
    assert predict.folder == Path("/data/04_2d/test")
    assert replace(predict, benchmark=True).folder == Path("/data/04_2d")


def test_other_commands_refuse_contradictions():
    for kind, values in (
        (PreprocessSettings, {"n_jobs": 0, "task": "1"}),
        (DownloadSettings, {}),
        (PreprocessSettings, {}),
    ):
        with pytest.raises(SettingsError):
            kind(**values)


def test_medicalnet_preset_is_the_published_training_and_flags_win():
    given = main_settings("--preset", "medicalnet", "--batch_size", "3")
    assert (given.optimizer, given.learning_rate, given.momentum, given.nesterov) == ("sgd", 0.001, 0.9, False)
    assert (given.weight_decay, given.scheduler, given.lr_decay, given.epochs) == (0.001, "exponential", 0.99, 200)
    assert (given.new_layer_lr_mult, given.augment, given.mirror_axes, given.batch_size) == (100, "none", (), 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "medicalnet", "--exec_mode", "evaluate", "--ckpt_path", "a"], "--preset medicalnet is for"),
        (["--img_list", "val.txt"], "--img_list is for --exec_mode evaluate"),
        (["--patch_size", "8", "8", "8"], "--patch_size is not for --exec_mode train"),
        (["--new_layer_lr_mult", "0"], "--new_layer_lr_mult 0.0 is not above 0"),
    ],
)
def test_faults_of_the_medicalnet_flags(argv, message, capsys):
    with pytest.raises(SystemExit):
        main_settings(*argv)
    assert message in capsys.readouterr().err


def test_faults_of_recipes(capsys):
    with pytest.raises(SystemExit):
        parse(PreprocessSettings, ["--task", "04", "--recipe", "medicalnet", "--dim", "2", "--patch_size", "8"], "")
    shown = capsys.readouterr().err
    assert "--recipe medicalnet is for --dim 3" in shown
    assert "--patch_size (8,) is not 2 sides above 0" in shown
