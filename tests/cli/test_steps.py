from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cases.settings import Settings, setting
from cli.steps import Step, StepError, check, decisive


def step(folder: Path, **settings: object) -> Step:
    return Step(folder=folder / "first", settings=settings, sources={"scans": folder / "scans.npy"})


def test_a_done_step_is_remembered_and_others_are_refused_together(tmp_path: Path) -> None:
    (tmp_path / "scans.npy").write_text("1")
    made = step(tmp_path, filters=(4, 8), epochs=2)
    assert made.result() is None
    made.folder.mkdir()
    made.finish(checkpoint="a.ckpt")
    assert step(tmp_path, filters=[4, 8], epochs=2, a_flag_that_came_later=1).result() == {"checkpoint": "a.ckpt"}
    (tmp_path / "scans.npy").write_text("2")
    second = Step(folder=tmp_path / "second", settings={})
    second.folder.mkdir()
    (second.folder / "done.json").write_text('{"checkpoint": "b.ckpt"}')
    with pytest.raises(StepError) as raised:
        check([step(tmp_path, filters=None, epochs=3), second])
    first = "first was made with --filters 4 8, not None, with --epochs 2, not 3, from another scans"
    assert first in str(raised.value) and "second does not say what it was made with" in str(raised.value)
    assert str(raised.value).endswith(f"or delete {tmp_path / 'first'}, {tmp_path / 'second'}")


def test_a_stopped_step_goes_on_with_the_same_settings_or_more_epochs(tmp_path: Path) -> None:
    made = step(tmp_path, classes=3, epochs=2)
    made.begin()
    assert step(tmp_path, classes=4, epochs=2).result() is None  # it failed before its first epoch: nothing is kept
    (made.folder / "checkpoints").mkdir()
    (made.folder / "checkpoints" / "last.ckpt").touch()
    assert made.stopped and step(tmp_path, classes=3, epochs=5).result() is None
    with pytest.raises(StepError, match="with --classes 3, not 4"):
        step(tmp_path, classes=4, epochs=2).result()
    made.finish(checkpoint="a.ckpt")
    assert not made.stopped


def stretched(run: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class MadeSettings(Settings):
    """Settings of a step."""

    classes: int = setting(3, "decides")
    epochs: int = setting(2, "decides a step that is done", kept=stretched)
    num_workers: int = setting(8, "of the machine", kept=False)
    data: Path = setting(Path("/data"), "a place")


@dataclass(frozen=True, kw_only=True)
class OtherSettings(Settings):
    """More of them."""

    filters: tuple[int, ...] | None = setting(None, "decides")


def test_paths_and_the_machine_decide_nothing() -> None:
    assert decisive([MadeSettings(classes=4), OtherSettings(filters=(4, 8))]) == {
        "classes": 4,
        "epochs": 2,
        "filters": (4, 8),
    }
