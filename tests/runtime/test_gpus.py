"""Whether PyTorch can use a GPU, and what is said where it cannot, on GPUs that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runtime import gpus
from runtime.gpus import DeviceError, runs_on, usable_gpus

BUILT = ["sm_75", "sm_80", "sm_90", "compute_90"]


def there(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
def test_gpus_that_the_build_holds_code_for_are_used(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    there(monkeypatch, "a GPU", capability)
    assert usable_gpus() == 1


def test_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, "Tesla V100", (7, 0))
    with pytest.raises(
        DeviceError, match=r"Tesla V100 \(sm_70\) is older than all .*requirements-cuda110.txt; --gpus 0"
    ):
        usable_gpus()
    monkeypatch.setattr(gpus.torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (10, 0))
    with pytest.raises(DeviceError, match=r"\(sm_100\) is newer than all .* \(sm_90 the newest\): .* requirements.txt"):
        usable_gpus()
    assert runs_on((8, 9), ["sm_86"]) and not runs_on((8, 0), ["sm_86"]) and not runs_on((9, 0), ["sm_86"])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs, for an nvidia-smi, and a PyTorch that sees no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def smi(folder: Path, body: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


def test_a_gpu_that_pytorch_cannot_use_is_not_passed_over(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_gpus() == 0
    smi(driver, "exit 9")
    assert usable_gpus() == 0
    smi(driver, "echo 'NVIDIA A100, 535.183.01'")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"A100 is there, but PyTorch .* without CUDA: pip install"):
        usable_gpus()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(DeviceError, match=r"driver 535.183.01, and PyTorch's CUDA 13.0 needs 580 or later"):
        usable_gpus()
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    with pytest.raises(DeviceError, match=r"but CUDA 12.6 does not start"):
        usable_gpus()
    smi(driver, "echo 'Tesla K80, 390.10'")
    with pytest.raises(DeviceError, match="update the driver to 580 or later"):
        usable_gpus()


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_are_not_asked_for(driver: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    smi(driver, "echo 'NVIDIA A100, 535.183.01'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert usable_gpus() == 0
