from pathlib import Path

import pytest

from scripts.steps import Step, StepError, check


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
