"""Whether PyTorch can use this machine's GPUs; where it cannot, why, and what to install instead."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

import torch

LINES = {  # by CUDA's major version: the oldest driver, and the file with PyTorch for it
    11: ("450.80", "requirements-cuda110.txt"),
    12: ("525.60", "requirements-cuda120.txt"),
    13: ("580", "requirements.txt"),
}
ON_CPU = "--gpus 0 runs on the CPU"
HIDDEN = ("", "-1", "NoDevFiles")  # CUDA_VISIBLE_DEVICES where a user or a scheduler hides all GPUs


class DeviceError(ValueError):
    """Devices that this machine does not have, or that PyTorch cannot use."""


def usable_gpus() -> int:
    """How many GPUs PyTorch can use; 0 where there are none.

    Raises:
        DeviceError: where the driver knows GPUs, but PyTorch cannot use them.
    """
    if torch.cuda.is_available():  # device_count() alone asks the driver, also where PyTorch cannot use it
        count = torch.cuda.device_count()
        check_architectures(count)
        return count
    found = None if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN else ask_driver()
    if found is not None:
        raise DeviceError(_why_not(*found))
    return 0


def ask_driver() -> tuple[str, str] | None:
    """Name of the first GPU and the driver's version, as nvidia-smi tells them; None without either."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = done.stdout.partition("\n")[0]
    name, comma, driver = line.rpartition(", ")
    return (name, driver) if done.returncode == 0 and comma else None


def _why_not(name: str, driver: str) -> str:
    """Why PyTorch sees no GPU where the driver has one, and the remedy."""
    fitting = [file for oldest, file in LINES.values() if _numbers(driver) >= _numbers(oldest)]
    install = f"pip install -r {fitting[-1]}" if fitting else f"update the driver to {LINES[max(LINES)][0]} or later"
    built = torch.version.cuda
    if built is None:
        return f"{name} is there, but PyTorch {torch.__version__} is built without CUDA: {install}; {ON_CPU}"
    oldest = LINES.get(int(built.partition(".")[0]), ("0", ""))[0]
    if _numbers(driver) < _numbers(oldest):
        return f"{name} has driver {driver}, and PyTorch's CUDA {built} needs {oldest} or later: {install}; {ON_CPU}"
    return (
        f"{name} is there with driver {driver}, but CUDA {built} does not start: "
        f"python -c 'import torch; torch.cuda.init()' says why; {ON_CPU}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def check_architectures(gpus: int) -> None:
    """Raises DeviceError where PyTorch holds no code for one of the first ``gpus`` GPUs."""
    built = torch.cuda.get_arch_list()
    for index in range(gpus):
        capability = torch.cuda.get_device_capability(index)
        if built and not runs_on(capability, built):
            name, oldest = torch.cuda.get_device_name(index), min(map(_architecture, built))
            older = capability < oldest
            age, bound = ("older", oldest) if older else ("newer", max(map(_architecture, built)))
            file = LINES[min(LINES) if older else max(LINES)][1]
            raise DeviceError(
                f"{name} ({sm(capability)}) is {age} than all that PyTorch {torch.__version__} is built for "
                f"({sm(bound)} the {'oldest' if older else 'newest'}): pip install -r {file}; {ON_CPU}"
            )


def runs_on(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether a build runs on a GPU.

    Code for a GPU ("sm_80") runs on later ones of its generation; code to be compiled by the driver ("compute_90") on
    all later ones.
    """
    for text in built:
        major, minor = _architecture(text)
        if text.startswith("sm_") and major == capability[0] and minor <= capability[1]:
            return True
        if text.startswith("compute_") and (major, minor) <= capability:
            return True
    return False


def _architecture(text: str) -> tuple[int, int]:
    """ "sm_90a" to (9, 0)."""
    return divmod(_numbers(text)[0], 10)


def sm(capability: tuple[int, int]) -> str:
    """A compute capability as it is mostly written: sm_90."""
    return f"sm_{capability[0]}{capability[1]}"
