"""Writing checkpoints whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint import WholeFiles


def test_a_save_that_breaks_off_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = WholeFiles(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"epoch": 1}, path)

    def cut(_: dict[str, Any], target: Path) -> None:
        target.write_bytes(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", cut)
        files.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    files.save_checkpoint({"epoch": 3}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 3}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
