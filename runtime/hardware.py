"""What a run computes on, in a line: device, precision, layout, kernels, libraries."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import torch

from runtime import triton
from runtime.gpus import sm

# With these PyTorch does not take cuDNN's half-precision 3D convolutions in contiguous layout (issues 166122, 166643).
SLOW_CUDNN = range(90800, 91500)
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16 with loss scaling"}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run computes on.

    Attributes:
        device: of the network.
        precision: as Lightning names it.
        channels_last: the layout of the network's activations.
    """

    device: torch.device
    precision: str
    channels_last: bool

    def __str__(self) -> str:
        """In a line: ``NVIDIA H200 (sm_90), bf16, channels-last, Triton kernels, cuDNN 9.5.1, DALI 2.4.0``."""
        precision = PRECISIONS.get(self.precision, self.precision)
        if self.device.type != "cuda":
            return f"CPU, {precision}"
        architecture = sm(torch.cuda.get_device_capability(self.device))
        if self.precision == "16-mixed":
            precision += f" (no bf16 on {architecture})"
        parts = [
            f"{torch.cuda.get_device_name(self.device)} ({architecture})",
            precision,
            "channels-last" if self.channels_last else "contiguous",
            "Triton kernels" if triton.available() else f"PyTorch's norm ({triton.why_not()})",
            f"cuDNN {cudnn_version()}",
            f"DALI {_version('nvidia-dali-cuda130', 'nvidia-dali-cuda120', 'nvidia-dali-cuda110')}",
        ]
        return ", ".join(parts)


def cudnn_version() -> str:
    """Such as 9.5.1; "none" without it."""
    number = torch.backends.cudnn.version()
    if number is None:
        return "none"
    parts = (number // 10000, number // 100 % 100, number % 100) if number >= 90000 else divmod(number, 1000)
    return ".".join(map(str, parts))


def contiguous_is_slow() -> bool:
    """Whether half-precision 3D convolutions of contiguous tensors miss cuDNN here; see ``SLOW_CUDNN``."""
    return (torch.backends.cudnn.version() or 0) in SLOW_CUDNN


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"
