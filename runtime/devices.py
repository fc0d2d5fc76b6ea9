"""Devices, ranks and precision, as Lightning's Trainer and Fabric both take them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.settings import Settings, above, at_least, setting
from runtime.affinity import Mode, bind_rank
from runtime.gpus import DeviceError, usable_gpus
from runtime.hardware import contiguous_is_slow, cudnn_version

Layout = Literal["NCDHW", "NDHWC"]
WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
LONGEST_WAIT = timedelta(hours=12)  # of a rank for the others, one of which may have many more scans to predict


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Settings):
    """Devices, processes and precision."""

    gpus: int | None = setting(
        None, "GPUs per node; 0 runs on the CPU; None: 1 where there is one", check=at_least(0), kept=False
    )
    nodes: int = setting(1, "nodes", check=above(0), kept=False)
    cpu_ranks: int = setting(1, "processes (gloo) where --gpus is 0", check=above(0), kept=False)
    affinity: Mode = setting(
        "socket_unique_continuous", "how CPU cores are bound to the ranks of several GPUs", kept=False
    )
    amp: bool = setting(
        False, "mixed precision: bf16 where the device has it; otherwise fp16 with loss scaling on a GPU, fp32 on a CPU"
    )

    def faults(self) -> list[str]:
        return ["--cpu_ranks is for --gpus 0"] if self.gpus and self.cpu_ranks > 1 else []


def devices(settings: DeviceSettings) -> dict[str, Any]:
    """Device kind and number, how ranks talk, precision: arguments of Trainer and Fabric.

    Raises:
        DeviceError: for more GPUs than there are.
    """
    gpus = gpus_used(settings)
    ranks = gpus or settings.cpu_ranks
    return {
        "accelerator": "gpu" if gpus else "cpu",
        "devices": ranks,
        "num_nodes": settings.nodes,
        "strategy": "ddp" if ranks * settings.nodes > 1 else "auto",
        "precision": _mixed_precision(gpu=bool(gpus)) if settings.amp else "32-true",
    }


def gpus_used(settings: DeviceSettings) -> int:
    """GPUs per node. Raises DeviceError for more than there are, and as :func:`usable_gpus`."""
    if settings.gpus == 0:
        return 0
    there = usable_gpus()
    if settings.gpus is None:
        return min(there, 1)
    if settings.gpus > there:
        raise DeviceError(f"--gpus {settings.gpus}, but this machine has {there}: --gpus 0 runs on the CPU")
    return settings.gpus


def half_on_gpu(settings: DeviceSettings) -> bool:
    """Whether networks compute in half precision on a GPU."""
    return settings.amp and bool(gpus_used(settings))


def usable_layout(layout: Layout, settings: DeviceSettings, dim: int) -> Layout:
    """The layout that was asked for, but channels-last, said in a line, where the other one would miss cuDNN.

    Args:
        layout: of the network's activations.
        settings: devices and precision.
        dim: spatial axes of the network.
    """
    if layout == "NDHWC" or dim != 3 or not half_on_gpu(settings) or not contiguous_is_slow():
        return layout
    say_once(
        f"note: --layout NDHWC is used instead: with cuDNN {cudnn_version()} PyTorch computes half-precision 3D "
        "convolutions of contiguous tensors without cuDNN, at several times the time and memory"
    )
    return "NDHWC"


def _mixed_precision(*, gpu: bool) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """Half precision of the device; on a CPU that would emulate it, none."""
    if gpu:
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if cpu_has_bf16() else "32-true"


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bf16 itself: without AVX-512 it is emulated, at many times the time of fp32."""
    return torch.backends.cpu.get_cpu_capability() not in WITHOUT_BF16


def build_fabric(settings: DeviceSettings) -> Fabric:
    """Devices, ranks and precision for prediction; all ranks run."""
    chosen = devices(settings)
    if chosen["strategy"] == "ddp":
        chosen["strategy"] = DDPStrategy(timeout=LONGEST_WAIT)
    fabric = Fabric(**chosen)
    fabric.launch()
    if fabric.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as Trainer does for training and evaluation
    bind_rank(settings.affinity, fabric, settings.nodes)
    return fabric


@lru_cache(maxsize=8)
def say_once(text: str) -> None:
    """A line on stderr, by the first process alone."""
    if global_rank() == 0:
        print(text, file=sys.stderr, flush=True)


def global_rank() -> int:
    """Of this process, as far as its launcher told: the first process of a further node knows the node's number."""
    return getattr(rank_zero_only, "rank", 0) or int(os.environ.get("NODE_RANK", 0))


def gpu_of(runner: Trainer | Fabric) -> int | None:
    """The GPU that this rank's batches are made on; None for the CPU."""
    device = runner.strategy.root_device if isinstance(runner, Trainer) else runner.device
    return device.index if device.type == "cuda" else None
