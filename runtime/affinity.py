"""Binding a rank to the CPU cores near its GPU.

A process hands its binding on to those that it starts, and rank 0 starts the others: so each rank binds
itself once all of them run.

The modes are those of NVIDIA's gpu_affinity helper: the cores considered are those of the socket that
the rank's GPU is connected to, "unique" ones are given to one rank only, and "single" is one core.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pytorch_lightning import Callback, LightningModule, Trainer

Mode = Literal[
    "socket",
    "single_single",
    "single_single_unique",
    "socket_unique_interleaved",
    "socket_unique_continuous",
    "disabled",
]
SYSFS = Path("/sys")


@dataclass(frozen=True, kw_only=True)
class CpuLayout:
    """The logical CPUs of a machine, numbered as the system does.

    Attributes:
        cores: logical CPUs of each physical core, in order; only those that this process may use.
        near: for each local rank, the logical CPUs of its device's socket that this process may use.
    """

    cores: tuple[tuple[int, ...], ...]
    near: tuple[frozenset[int], ...]


class Binding(Callback):
    """Binds each rank of a Trainer to its cores before it makes loaders."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        bind_rank(self.mode, trainer, trainer.num_nodes)


def bind_rank(mode: Mode, runner: Trainer | Fabric, nodes: int) -> None:
    """Bind this rank of a Trainer or Fabric that has started all of them; a machine's only rank stays free."""
    ranks = runner.world_size // nodes
    if ranks > 1:
        set_affinity(mode, runner.local_rank, ranks, gpu=runner.strategy.root_device.type == "cuda")


@cache
def unbound_cpus() -> frozenset[int]:
    """The CPUs that this process might use before it was first bound, so that binding twice is binding once."""
    return frozenset(os.sched_getaffinity(0))


def set_affinity(mode: Mode, local_rank: int, ranks: int, *, gpu: bool) -> frozenset[int]:
    """Bind this process, and what it starts from now on, to the CPUs of its rank, and return them.

    Threads that run already stay where they are, so call it early.

    Args:
        mode: see :func:`choose_cpus`; "disabled" changes nothing.
        local_rank: of this process, on this machine.
        ranks: processes on this machine.
        gpu: rank r works on CUDA device r; otherwise the ranks are spread over the NUMA nodes.
    """
    allowed = unbound_cpus()
    if mode == "disabled":
        return allowed
    near = gpu_cpus(ranks, SYSFS) if gpu else numa_cpus(ranks, SYSFS)
    chosen = choose_cpus(read_layout(near, allowed, SYSFS), mode, local_rank)
    os.sched_setaffinity(0, chosen)
    return chosen


def choose_cpus(layout: CpuLayout, mode: Mode, local_rank: int) -> frozenset[int]:
    """The logical CPUs of one rank.

    - socket: all of its device's socket;
    - single_single: the first of them, whoever else has it;
    - single_single_unique: one physical core that no other rank has;
    - socket_unique_interleaved, socket_unique_continuous: as many of the socket's physical cores as
      every rank of the machine can have, every n-th or neighbouring ones, with all their hyper-threads;
    - disabled: all.

    Where a socket has fewer cores than ranks, nothing can be unique: its ranks share cores in turn.
    """
    near = layout.near[local_rank]
    if mode == "disabled":
        return frozenset(cpu for core in layout.cores for cpu in core)
    if mode == "socket":
        return near
    if mode == "single_single":
        return frozenset([min(near)])
    groups = _groups(layout)
    cores, ranks = next((cores, ranks) for cores, ranks in groups if local_rank in ranks)
    place = ranks.index(local_rank)
    share = min(len(cores) // len(ranks) for cores, ranks in groups)
    if mode == "single_single_unique":
        return frozenset(cores[place % len(cores)][:1])
    if share == 0:
        return frozenset(cores[place % len(cores)])
    if mode == "socket_unique_interleaved":
        mine: Sequence[tuple[int, ...]] = cores[: share * len(ranks)][place :: len(ranks)]
    else:
        mine = cores[place * share : (place + 1) * share]
    return frozenset(cpu for core in mine for cpu in core)


def _groups(layout: CpuLayout) -> list[tuple[list[tuple[int, ...]], list[int]]]:
    """(physical cores, local ranks) of each socket that ranks are near to."""
    sockets: dict[frozenset[int], list[int]] = {}
    for rank, near in enumerate(layout.near):
        sockets.setdefault(near, []).append(rank)
    groups = []
    for near, ranks in sockets.items():
        cores = [tuple(cpu for cpu in core if cpu in near) for core in layout.cores]
        groups.append(([core for core in cores if core], ranks))
    return groups


def read_layout(near: Sequence[frozenset[int]], allowed: frozenset[int], sysfs: Path) -> CpuLayout:
    """The layout of this machine, as far as this process may use it.

    Args:
        near: logical CPUs of each local rank's socket; an empty set where that is not known.
        allowed: logical CPUs that this process may use, which a container often limits.
        sysfs: normally /sys.
    """
    cores = set()
    for cpu in allowed:
        siblings = sysfs / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        core = _cpu_list(siblings) & allowed | {cpu}
        cores.add(tuple(sorted(core)))
    usable = tuple((cpus & allowed) or allowed for cpus in near)
    return CpuLayout(cores=tuple(sorted(cores)), near=usable)


def numa_cpus(ranks: int, sysfs: Path) -> list[frozenset[int]]:
    """Logical CPUs of each rank's NUMA node, the ranks spread evenly over the nodes that have CPUs."""
    files = sorted(
        (sysfs / "devices/system/node").glob("node[0-9]*/cpulist"), key=lambda file: int(file.parent.name[4:])
    )
    nodes = [cpus for cpus in map(_cpu_list, files) if cpus] or [frozenset()]
    return [nodes[rank * len(nodes) // ranks] for rank in range(ranks)]


def gpu_cpus(ranks: int, sysfs: Path) -> list[frozenset[int]]:
    """Logical CPUs near CUDA devices 0 to ranks - 1; empty sets where the system does not say."""
    near = []
    for rank in range(ranks):
        device: Any = torch.cuda.get_device_properties(rank)
        if not hasattr(device, "pci_bus_id"):  # an older PyTorch
            near.append(frozenset[int]())
            continue
        address = f"{device.pci_domain_id:04x}:{device.pci_bus_id:02x}:{device.pci_device_id:02x}.0"
        near.append(_cpu_list(sysfs / "bus/pci/devices" / address / "local_cpulist"))
    return near


def _cpu_list(path: Path) -> frozenset[int]:
    """Numbers in the kernel's notation, such as ``0-3,8-11``; none where the file is not there."""
    if not path.is_file():
        return frozenset()
    cpus: set[int] = set()
    for piece in path.read_text(encoding="ascii").strip().split(","):
        first, _, last = piece.partition("-")
        if first:
            cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)
