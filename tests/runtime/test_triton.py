"""Triton needs its package, a C compiler and Python's header, and is asked about when a kernel is wanted."""

import importlib.util
import shutil
import sysconfig
from pathlib import Path

import pytest

from runtime import triton


@pytest.fixture
def asked_anew(monkeypatch, tmp_path):
    """Everything that it needs, in a made-up place."""
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(triton, "find_spec", lambda name: importlib.util.find_spec("os"))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    triton.available.cache_clear()
    yield tmp_path
    triton.available.cache_clear()


def test_all_three_are_needed(asked_anew, monkeypatch):
    assert triton.available()
    for take_away in (
        lambda patch: patch.setattr(triton, "find_spec", lambda name: None),
        lambda patch: patch.setattr(shutil, "which", lambda name: None),
        lambda patch: Path(asked_anew, "Python.h").unlink(),
    ):
        triton.available.cache_clear()
        with monkeypatch.context() as patch:
            take_away(patch)
            assert not triton.available()


def test_the_answer_is_kept(asked_anew):
    assert triton.available()
    Path(asked_anew, "Python.h").unlink()
    assert triton.available()


def test_a_named_compiler_counts(asked_anew, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CC", "my-cc")
    assert triton.available()
