"""The checkpoint that a command names, in the memory layout that its device wants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.modes import parse_main
from cli.trained import any_checkpoint
from inference.medicalnet import PublishedNetwork
from nets.build import build_network
from nets.weights.export import to_medicalnet
from runtime.devices import say_once
from tests.nets.made_plans import choice, make_plan


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """MedicalNet's segmentation network as its authors store it."""
    path = tmp_path / "published.pth"
    torch.save(to_medicalnet(build_network(make_plan(), choice(encoder="resnet10", conv_seg=True)))[0], path)
    return path


@pytest.mark.parametrize(
    ("flags", "gpus", "cudnn", "last"),
    [
        ("--amp", 1, 90501, True),
        ("--amp --layout NCDHW", 1, 90501, False),
        ("--amp --layout NCDHW", 1, 91002, True),
        ("", 1, 91002, False),
        ("--amp", 0, 91002, False),
        ("--layout NDHWC", 0, 91002, True),
    ],
)
def test_a_published_network_is_laid_out_as_any_other(
    published: Path, monkeypatch: pytest.MonkeyPatch, flags: str, gpus: int, cudnn: int, last: bool
) -> None:
    monkeypatch.setattr("runtime.devices.usable_gpus", lambda: gpus)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    say_once.cache_clear()
    given = parse_main(["--exec_mode", "predict", "--ckpt_path", str(published), *flags.split()])
    source = any_checkpoint(given)
    assert isinstance(source, PublishedNetwork)
    kernel = source.network.encoder.stages[1][0].convs[0].conv.weight
    assert source.channels_last == kernel.is_contiguous(memory_format=torch.channels_last_3d) == last
