"""main.py's command line: defaults, presets, files, faults, and flags that a mode does not read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cases.folder import FolderSettings, preprocessed_folder
from cases.settings import Settings, SettingsError
from cli.compose import with_all_variants
from cli.fields import Field, fields_of
from cli.mode import Mode
from cli.modes import MODES, PROGRAM, ModeSettings, parse_main

Values = dict[str, Any]


def values_of(*argv: str) -> Values:
    return parse_main(argv).as_json()


def test_defaults_are_the_documented_ones() -> None:
    given = values_of()
    expected = {
        "exec_mode": "train", "data": "/data", "results": "/results", "logname": None, "task": None, "nodes": 1,
        "learning_rate": 0.0008, "gradient_clip_val": 0, "negative_slope": 0.01, "tta": False, "brats": False,
        "deep_supervision": False, "deep_supr_num": 2, "more_chn": False, "invert_resampled_y": False, "amp": False,
        "benchmark": False, "train_batches": 0, "test_batches": 0, "focal": False,
        "sync_batchnorm": False, "nfolds": 5, "fold": 0, "seed": 1, "skip_first_n_eval": 0, "ckpt_path": None,
        "resume_training": False, "patience": 100, "batch_size": 2, "val_batch_size": 4, "profile": False,
        "momentum": 0.99, "weight_decay": 0.0001, "dim": 3, "data2d_dim": 3, "nvol": 4,
        "num_workers": 8, "epochs": 1000, "min_epochs": 0, "config": None, "ckpt_store_dir": None,
        "norm": "instance", "depth": 5, "min_fmap": 4, "filters": None, "res_block": False, "oversampling": 0.4,
        "overlap": 0.5, "blend": "gaussian", "affinity": "socket_unique_continuous", "scheduler": "none",
        "optimizer": "adam", "layout": "NCDHW",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    assert values_of("--benchmark")["warmup"] == 5
    assert values_of("--exec_mode", "predict", "--ckpt_path", "a")["save_preds"] is False


def test_flags_become_typed_values() -> None:
    given = values_of("--filters", "16", "32", "--mirror_axes", "--max_epochs", "3", "--scheduler", "--no-save_ckpt")
    assert given["filters"] == (16, 32)
    assert given["mirror_axes"] == ()
    assert given["epochs"] == 3
    assert given["scheduler"] == "cosine"
    assert given["save_ckpt"] is False
    assert values_of("--scheduler", "one_cycle")["scheduler"] == "one_cycle"


def test_all_faults_come_in_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        values_of("--fold", "7", "--exec_mode", "predict", "--overlap", "2", "--val_batch_size", "0")
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    for part in ("--fold 7", "--ckpt_path", "--overlap 2.0", "--val_batch_size 0"):
        assert part in message


def test_unknown_and_abbreviated_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--fuld", "--epoch"):
        with pytest.raises(SystemExit):
            values_of(flag, "1")
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
def test_a_misspelt_flag_or_a_value_too_many_gets_a_hint(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        values_of(*argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'epochs = 7\nfilters = [8, 16]\nresults = "r"\n'),
        ("b.toml", '[fit]\nepochs = 7\n[segmentation_network]\nfilters = [8, 16]\n[log]\nresults = "r"\n'),
        ("a.json", '{"epochs": 7, "filters": [8, 16], "results": "r"}'),
    ],
)
def test_config_file_is_read_and_flags_win(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    given = values_of("--config", str(path), "--epochs", "9")
    assert (given["epochs"], given["filters"], given["results"]) == (9, (8, 16), "r")


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
def test_bad_config_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(SystemExit):
        values_of("--config", str(path))
    error = capsys.readouterr().err
    assert message in error
    assert "c.json" in error


def test_missing_config_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        values_of("--config", "nowhere.toml")
    assert "nowhere.toml: No such file" in capsys.readouterr().err


def test_preprocessed_folder_follows_the_task_only_where_data_is_left_alone() -> None:
    assert preprocessed_folder(Path("/data"), "04", 3) == Path("/data/04_3d")
    assert preprocessed_folder(Path("/elsewhere/04_3d"), "04", 3) == Path("/elsewhere/04_3d")
    assert preprocessed_folder(Path("/data"), None, 3) == Path("/data")
    settings = FolderSettings(task="4", dim=2)
    assert settings.folder("test") == Path("/data/04_2d/test")
    assert settings.folder() == Path("/data/04_2d")


def test_medicalnet_preset_is_the_published_training_and_flags_win() -> None:
    given = values_of("--preset", "medicalnet", "--batch_size", "3")
    names = ("optimizer", "learning_rate", "momentum", "nesterov")
    assert tuple(given[name] for name in names) == ("sgd", 0.001, 0.9, False)
    names = ("weight_decay", "scheduler", "lr_decay", "epochs")
    assert tuple(given[name] for name in names) == (0.001, "exponential", 0.99, 200)
    names = ("new_layer_lr_mult", "augment", "mirror_axes", "batch_size")
    assert tuple(given[name] for name in names) == (100, "none", (), 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "medicalnet", "--exec_mode", "evaluate", "--ckpt_path", "a"], "--preset medicalnet is for"),
        (["--img_list", "val.txt"], "--img_list is for --exec_mode evaluate"),
        (["--patch_size", "8", "8", "8"], "--patch_size is not for --exec_mode train"),
        (["--new_layer_lr_mult", "0"], "--new_layer_lr_mult 0.0 is not above 0"),
    ],
)
def test_faults_of_the_medicalnet_flags(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        values_of(*argv)
    assert message in capsys.readouterr().err


def every_flag() -> dict[str, Field]:
    return PROGRAM.every_field()


def unread() -> Iterator[tuple[Mode, Field]]:
    """Every flag that a mode does not read in any of its variants."""
    for mode in MODES:
        read = {f.name for f in fields_of((ModeSettings, *with_all_variants(mode.groups)))}
        for name, f in every_flag().items():
            if name not in read:
                yield mode, f


def typed(f: Field) -> list[str]:
    """A flag with values that it takes."""
    if f.kind is bool:
        return [f"--{f.name}"]
    one = str(f.choices[-1]) if f.choices else next(iter(f.variants or ()), {int: "1", float: "0.5"}.get(f.kind, "x"))
    return [f"--{f.name}", *[one] * (f.count if isinstance(f.count, int) else 1)]


def chosen(mode: Mode) -> list[str]:
    parser = argparse.ArgumentParser()
    parser.exit_on_error = False
    return [
        text
        for k, v in mode.chosen_by.items()
        if v is not False
        for text in ([f"--{k}"] if v is True else [f"--{k}", v])
    ]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_flag_that_the_mode_does_not_read_is_an_error_that_names_who_does(mode: Mode) -> None:
    flags = [f for other, f in unread() if other is mode]
    assert flags
    for f in flags:
        with pytest.raises(SettingsError) as error:
            PROGRAM.read([*chosen(mode), *typed(f)])
        message = str(error.value)
        assert f"--{f.name}" in message and ("is not for" in message or "is for" in message), message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--exec_mode pretrain --oversampling 0.3", "--oversampling is for --exec_mode train"),
        ("--exec_mode pretrain --focal", "--focal is for --exec_mode train"),
        ("--exec_mode pretrain --brats", "--brats is for --exec_mode train"),
        ("--exec_mode pretrain --loss dice", "--loss dice is for --exec_mode train"),
        ("--exec_mode pretrain --augment none", "--augment none is for --exec_mode train"),
        ("--exec_mode pretrain --mirror_axes 1", "--mirror_axes is for --exec_mode train"),
        ("--benchmark --profile", "--profile is for"),
        ("--exec_mode evaluate --ckpt_path a --profile", "--profile is for --exec_mode pretrain and train"),
    ],
)
def test_flags_that_were_once_ignored(argv: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        PROGRAM.read(argv.split())
    assert message in str(error.value)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_no_two_groups_of_a_mode_share_a_flag(mode: Mode) -> None:
    owners: dict[str, type[Settings]] = {}
    for kind in (ModeSettings, *mode.groups):
        for f in fields_of((kind,)):
            assert f.name not in owners, f"--{f.name}: {kind.__name__} and {owners[f.name].__name__}"
            owners[f.name] = kind


def test_sync_batchnorm_is_read_by_every_training() -> None:
    for argv in ("", "--exec_mode pretrain", "--kind classification --labels_csv a"):
        assert values_of(*argv.split(), "--sync_batchnorm")["sync_batchnorm"] is True


@pytest.mark.parametrize(
    ("flags", "batch_size", "nvol"),
    [
        ("", 2, 4),
        ("--dim 2", 64, 4),
        ("--dim 2 --batch_size 6", 6, 3),
        ("--dim 2 --batch_size 7", 7, 1),
        ("--dim 2 --nvol 8", 64, 8),
        ("--dim 2 --data2d_dim 2", 2, 4),
    ],
)
def test_a_2d_batch_is_shared_evenly_by_its_volumes(flags: str, batch_size: int, nvol: int) -> None:
    values = values_of("--exec_mode", "train", *flags.split())
    assert (values["batch_size"], values["nvol"]) == (batch_size, nvol)


@pytest.mark.parametrize(
    ("flags", "there", "layout"),
    [
        ("--amp", True, "NDHWC"),
        ("--amp --layout NCDHW", True, "NCDHW"),
        ("--amp --dim 2", True, "NCDHW"),
        ("--amp --gpus 0", True, "NCDHW"),
        ("", True, "NCDHW"),
        ("--amp", False, "NCDHW"),
    ],
)
def test_mixed_precision_on_a_gpu_takes_channels_last(
    monkeypatch: pytest.MonkeyPatch, flags: str, there: bool, layout: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    for mode in ("train", "pretrain"):
        assert values_of("--exec_mode", mode, *flags.split())["layout"] == layout
