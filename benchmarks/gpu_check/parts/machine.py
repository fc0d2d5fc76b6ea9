"""What the numbers depend on: the device and its clocks, versions, compilers, cores, shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.report import Row
from benchmarks.record import machine, versions
from data_loading.dali import SHARED_MEMORY
from runtime import triton

GIB = 2**30
QUERIES = {  # what nvidia-smi calls it, and in words
    "driver_version": "driver",
    "clocks.sm": "clock now",
    "clocks.max.sm": "highest clock",
    "clocks.mem": "memory clock",
    "power.limit": "power limit",
    "temperature.gpu": "temperature in C",
    "mig.mode.current": "MIG",
}


def rows(conditions: Conditions) -> Iterator[Row]:
    for what, value in {**device(conditions), **software(), **host()}.items():
        yield Row(part="machine", what=what, value=value)


def device(conditions: Conditions) -> dict[str, str]:
    """Of the GPU."""
    if not conditions.gpu:
        return {"GPU": "none"}
    properties = torch.cuda.get_device_properties(conditions.device)
    free, total = torch.cuda.mem_get_info(conditions.device)
    return {
        "GPU": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}, {properties.multi_processor_count} multiprocessors",
        "memory": f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free",
        "bf16": "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no: --amp is fp16",
        **nvidia_smi(conditions.device_id or 0),
    }


def nvidia_smi(device_id: int) -> dict[str, str]:
    """Driver and clocks; one entry that says so where the program is missing or refuses."""
    command = ["nvidia-smi", f"--id={device_id}", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia-smi": f"gives no answer ({error})"}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(QUERIES.values(), values, strict=False))


def software() -> dict[str, str]:
    """Versions, and what can compile here."""
    cudnn = torch.backends.cudnn.version()
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return {
        **versions(),
        "CUDA of PyTorch": torch.version.cuda or "none: a build for the CPU",
        "cuDNN": str(cudnn) if cudnn else "none",
        "C compiler": compiler or "none: neither Triton's kernels nor --compile can be built",
        "Triton": "builds kernels" if triton.available() else "cannot build kernels here",
    }


def host() -> dict[str, str]:
    """Cores, memory and /dev/shm."""
    about = machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    found = {"CPU": about["cpu"], "cores": f"{about['cores']} usable", "host memory": f"{memory:.0f} GiB"}
    if SHARED_MEMORY.is_dir():
        stat = os.statvfs(SHARED_MEMORY)
        found[str(SHARED_MEMORY)] = f"{stat.f_bavail * stat.f_frsize / GIB:.2f} GiB free"
    return found
