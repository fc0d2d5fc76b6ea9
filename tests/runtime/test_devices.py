"""Devices, precision and layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from runtime.devices import (
    LONGEST_WAIT,
    DeviceSettings,
    build_fabric,
    devices,
    gpu_of,
    say_once,
    usable_layout,
)
from runtime.gpus import DeviceError


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


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A machine with a GPU and a version of cuDNN."""

    def make(cudnn: int) -> None:
        monkeypatch.setattr("runtime.devices.usable_gpus", lambda: 1)
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
        say_once.cache_clear()

    return make


@pytest.mark.parametrize(("cudnn", "layout"), [(90501, "NCDHW"), (91002, "NDHWC"), (91400, "NDHWC"), (91500, "NCDHW")])
def test_contiguous_tensors_that_would_miss_cudnn_are_not_used(
    one_gpu: Callable[[int], None], capsys: pytest.CaptureFixture[str], cudnn: int, layout: str
) -> None:
    one_gpu(cudnn)
    half = DeviceSettings(amp=True)
    for _ in range(2):
        assert usable_layout("NCDHW", half, 3) == layout
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (layout == "NDHWC")
    assert all("--layout NDHWC is used instead: with cuDNN 9.1" in line for line in told)
    assert usable_layout("NDHWC", half, 3) == "NDHWC"
    for other, dim in ((half, 2), (DeviceSettings(), 3), (DeviceSettings(amp=True, gpus=0), 3)):
        assert usable_layout("NCDHW", other, dim) == "NCDHW"


def test_ranks_of_a_prediction_wait_long_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class Made:
        device = torch.device("cuda", 3)

        def __init__(self, **arguments: Any) -> None:
            made.update(arguments)

        def launch(self) -> None:
            pass

    monkeypatch.setattr("runtime.devices.Fabric", Made)
    monkeypatch.setattr("runtime.devices.bind_rank", lambda *_: None)
    monkeypatch.setattr("runtime.devices.usable_gpus", lambda: 4)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    fabric = build_fabric(DeviceSettings(gpus=4))
    assert made["strategy"]._timeout == LONGEST_WAIT
    assert torch.backends.cudnn.benchmark
    assert gpu_of(fabric) == 3  # the device's own number, which need not be the rank's
