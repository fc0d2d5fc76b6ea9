"""What a GPU, its driver and the installed libraries can do, and what is chosen where they cannot.

Nothing here starts CUDA unless a GPU is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from runtime import triton

DRIVER = Path("/proc/driver/nvidia")  # of Linux, whether or not PyTorch can use it
# With these PyTorch does not take cuDNN's half-precision 3D convolutions in contiguous layout (issues 166122, 166643).
SLOW_CUDNN = range(90800, 91500)
PRECISIONS = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16 with loss scaling"}


class DeviceError(ValueError):
    """Devices that this machine does not have, or that cannot be used."""


def usable_gpus() -> int:
    """How many GPUs PyTorch can use.

    Raises:
        DeviceError: where the machine has GPUs that this PyTorch cannot use, for a run that would quietly take to the
            CPU is not what anybody wants.
    """
    count = torch.cuda.device_count()
    if count:
        _check_architecture()
        return count
    if not _gpus_of_driver():
        return 0
    if torch.version.cuda is None:
        reason, remedy = f"PyTorch {torch.__version__} is built without CUDA", "install requirements.txt"
    else:
        reason = f"PyTorch {torch.__version__} for CUDA {torch.version.cuda} cannot use driver {_driver_version()}"
        remedy = "install requirements-cuda120.txt (driver 525.60 or later) or a newer driver"
    raise DeviceError(f"this machine has an NVIDIA GPU, but {reason}: {remedy}; --gpus 0 runs on the CPU")


def _gpus_of_driver() -> list[Path]:
    return sorted((DRIVER / "gpus").glob("*"))


def _driver_version() -> str:
    try:
        first = (DRIVER / "version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return "of unknown version"
    return next((word for word in first.split() if word[:1].isdigit() and "." in word), "of unknown version")


def _check_architecture() -> None:
    """Raises DeviceError for a GPU that is older than the oldest one that PyTorch was built for."""
    names = (name.removeprefix("sm_") for name in torch.cuda.get_arch_list() if name.startswith("sm_"))
    built = [int(name.rstrip("af")) for name in names]
    major, minor = torch.cuda.get_device_capability()
    if built and 10 * major + minor < min(built):
        raise DeviceError(
            f"{torch.cuda.get_device_name()} is of architecture sm_{major}{minor}, but PyTorch {torch.__version__} is "
            f"built for sm_{min(built)} and later: install requirements-cuda120.txt or requirements-cuda110.txt; "
            "--gpus 0 runs on the CPU"
        )


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
        major, minor = torch.cuda.get_device_capability(self.device)
        if self.precision == "16-mixed":
            precision += f" (no bf16 on sm_{major}{minor})"
        parts = [
            f"{torch.cuda.get_device_name(self.device)} (sm_{major}{minor})",
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
