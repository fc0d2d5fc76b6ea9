"""Layouts to export to, a user's own among them."""

from pathlib import Path

import pytest
import torch

from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from scripts import export
from tests.conftest import make_plan

OWN = """
def to_mine(net):
    return {"mine": sum(p.numel() for p in net.parameters())}, ["a note"]


def to_nothing(net):
    return {}
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    plan, settings = make_plan((8, 16, 16)), {"filters": (4, 8), "depth": 1}
    net = build_network(plan, NetworkSettings(**settings))
    content = {"plan": plan.to_json(), "network_settings": settings}
    weights = {f"network.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights} | content, tmp_path / "w.ckpt")
    return tmp_path / "w.ckpt"


def run(checkpoint: Path, to: str) -> int | str | None:
    out = checkpoint.with_name("out.pth")
    try:
        return export.main(["--ckpt_path", str(checkpoint), "--to", to, "--out", str(out)])
    except SystemExit as usage:
        return usage.code


def test_an_own_layout_is_named_on_the_command_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = checkpoint.with_name("own_layout.py")
    own.write_text(OWN)
    assert run(checkpoint, f"{own}:to_mine") == 0
    assert "a note" in capsys.readouterr().out
    net = build_network(make_plan((8, 16, 16)), NetworkSettings(filters=(4, 8), depth=1))
    wanted = sum(p.numel() for p in net.parameters())
    assert torch.load(checkpoint.with_name("out.pth"), weights_only=True) == {"mine": wanted}


@pytest.mark.parametrize(
    ("to", "status", "message"),
    [
        ("nnunet_v3", 2, "did you mean nnunet_v"),
        ("{own}:to_yours", 2, "defines no to_yours"),
        ("{own}:to_nothing", 1, "must return what is saved, and a list of notes"),
        ("{own}:__doc__", 2, "has no __call__"),
    ],
)
def test_a_wrong_layout_is_one_message(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], to: str, status: int, message: str
) -> None:
    own = checkpoint.with_name(f"wrong_layout_{abs(hash(checkpoint))}.py")
    own.write_text(OWN)
    assert run(checkpoint, to.format(own=own)) == status
    *usage, said = capsys.readouterr().err.splitlines()
    assert "error: " in said and message in said and len(usage) == (status == 2)
    assert not checkpoint.with_name("out.pth").exists()
