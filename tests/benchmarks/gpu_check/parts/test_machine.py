"""What the numbers depend on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts.machine import nvidia_smi, rows


def test_versions_cores_and_shared_memory_are_told(tiny: Conditions) -> None:
    found = {row.what: row.value for row in rows(tiny)}
    assert found["GPU"] == "none"
    assert found["torch"] and found["pytorch-lightning"]
    assert found["cores"] == f"{len(os.sched_getaffinity(0))} usable"
    assert str(found["/dev/shm"]).endswith("GiB free")
    assert {"cuDNN", "C compiler", "Triton", "CUDA of PyTorch"} <= found.keys()


def test_nvidia_smi_is_asked_and_its_absence_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "gives no answer" in nvidia_smi(0)["nvidia-smi"]
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "580.65, 1980 MHz, 1980 MHz, 2619 MHz, 700.00 W, 31, Disabled"\n')
    program.chmod(0o755)
    found = nvidia_smi(0)
    assert (found["driver"], found["clock now"], found["MIG"]) == ("580.65", "1980 MHz", "Disabled")
