"""preprocess.py's command line, and that every program's settings are JSON-able."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from cases.settings import Given, SettingsError
from cli import preprocess
from cli.compose import parse
from cli.download import DownloadSettings
from cli.fields import fields_of
from cli.mode import with_all_variants
from cli.modes import parse_main
from inference.evaluation import EvaluateSettings


def test_every_setting_of_every_command_is_json_able() -> None:
    for given in (
        parse_main([]),
        preprocess.parse_preprocess(["--task", "04"]),
        parse((DownloadSettings,), ["--list"], ""),
        parse((EvaluateSettings,), ["--preds", "a", "--lbls", "b"], ""),
    ):
        values = given.as_json()
        assert json.loads(json.dumps(values)).keys() == values.keys()


def read(*argv: str) -> Given:
    return preprocess.PROGRAM.read(argv)[1]


@pytest.mark.parametrize("argv", [("--task", "1", "--n_jobs", "0"), (), ("--task", "1", "--dataset", "a")])
def test_contradictions_are_refused(argv: Sequence[str]) -> None:
    with pytest.raises(SettingsError):
        read(*argv)


def test_a_download_is_one_thing() -> None:
    with pytest.raises(ValueError, match="give one of --task, --dataset, --weights and --list"):
        DownloadSettings()


def test_a_patch_has_as_many_sides_as_the_network() -> None:
    with pytest.raises(SettingsError, match=r"--patch_size .* sides"):
        read("--task", "04", "--dim", "2", "--patch_size", "8")


@pytest.mark.parametrize("mode", preprocess.MODES, ids=lambda mode: mode.name)
def test_flags_of_another_mode_are_refused_by_name(mode: preprocess.Mode) -> None:
    known = {f.name for f in fields_of((preprocess.PreprocessModeSettings, *with_all_variants(mode.groups)))}
    others = [f for f in preprocess.PROGRAM.every_field().values() if f.name not in known]
    assert others
    for f in others:
        value = [] if f.kind is bool else ["1"] * (f.count if isinstance(f.count, int) else 1)
        with pytest.raises(SettingsError, match=f"--{f.name}.* is not for {mode.name}"):
            read(*mode.name.split(), f"--{f.name}", *value)


@pytest.mark.parametrize("mode", preprocess.MODES, ids=lambda mode: mode.name)
def test_no_two_groups_of_a_mode_share_a_flag(mode: preprocess.Mode) -> None:
    names = [f.name for kind in (preprocess.PreprocessModeSettings, *mode.groups) for f in fields_of((kind,))]
    assert len(names) == len(set(names))
