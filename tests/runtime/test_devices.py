"""Precision of --amp on CPUs."""

from __future__ import annotations

import pytest
import torch

from runtime.devices import DeviceError, DeviceSettings, devices


@pytest.mark.parametrize(("capability", "precision"), [("AVX2", "32-true"), ("AVX512", "bf16-mixed")])
def test_a_cpu_computes_in_bf16_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, capability: str, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert devices(DeviceSettings(gpus=0, amp=True))["precision"] == precision
    assert devices(DeviceSettings(gpus=0))["precision"] == "32-true"


def test_gpus_that_are_not_there_are_named() -> None:
    with pytest.raises(DeviceError, match="--gpus 99, but this machine has"):
        devices(DeviceSettings(gpus=99))
