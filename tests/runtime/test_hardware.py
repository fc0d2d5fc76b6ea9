"""What a run says of the GPU that it has, on GPUs that are not here."""

from __future__ import annotations

import pytest
import torch

from runtime import hardware, triton
from runtime.hardware import Hardware, cudnn_version

GPU = torch.device("cuda", 0)


def pretend(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], *, cudnn: int = 90501, missing: str = ""
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    monkeypatch.setattr(triton, "available", lambda: not missing)
    monkeypatch.setattr(triton, "why_not", lambda: missing)
    monkeypatch.setattr(hardware, "_version", lambda *_: "2.4.0")


@pytest.mark.parametrize(
    ("name", "capability", "precision", "last", "missing", "line"),
    [
        ("NVIDIA H200", (9, 0), "bf16-mixed", True, "", "(sm_90), bf16, channels-last, Triton kernels, cuDNN 9.5.1"),
        ("NVIDIA B200", (10, 0), "32-true", False, "", "(sm_100), fp32, contiguous, Triton kernels, cuDNN 9.5.1"),
        ("NVIDIA A100", (8, 0), "bf16-mixed", True, "no C compiler for Triton",
         "(sm_80), bf16, channels-last, PyTorch's norm (no C compiler for Triton), cuDNN 9.5.1"),
        ("Tesla T4", (7, 5), "16-mixed", True, "",
         "(sm_75), fp16 with loss scaling (no bf16 on sm_75), channels-last, Triton kernels, cuDNN 9.5.1"),
    ],
    ids=["H200", "B200", "A100", "T4"],
)  # fmt: skip
def test_a_run_says_what_it_computes_on(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], precision: str, last: bool,
    missing: str, line: str,
) -> None:  # fmt: skip
    pretend(monkeypatch, name, capability, missing=missing)
    said = str(Hardware(device=GPU, precision=precision, channels_last=last))
    assert said == f"{name} {line}, DALI 2.4.0"


def test_a_cpu_has_little_to_say() -> None:
    assert str(Hardware(device=torch.device("cpu"), precision="bf16-mixed", channels_last=True)) == "CPU, bf16"


@pytest.mark.parametrize(("number", "text"), [(90501, "9.5.1"), (91002, "9.10.2"), (8907, "8.907"), (None, "none")])
def test_cudnn_has_a_readable_version(monkeypatch: pytest.MonkeyPatch, number: int | None, text: str) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: number)
    assert cudnn_version() == text
