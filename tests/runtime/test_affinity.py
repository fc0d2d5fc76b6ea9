"""CPU binding on made-up machines: two sockets of four cores with two hyper-threads each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from runtime import affinity
from runtime.affinity import CpuLayout, choose_cpus, gpu_cpus, numa_cpus, read_layout, set_affinity, unbound_cpus

ROOT = Path(__file__).parents[2]
SOCKETS = [frozenset({0, 1, 2, 3, 8, 9, 10, 11}), frozenset({4, 5, 6, 7, 12, 13, 14, 15})]
ALL = frozenset(range(16))


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Core n has the logical CPUs n and n + 8; node 0 has cores 0-3, node 1 cores 4-7."""
    for cpu in range(16):
        topology = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 8},{cpu % 8 + 8}\n")
    for node, cpus in enumerate(["0-3,8-11", "4-7,12-15", ""]):  # the third has memory alone
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    return tmp_path


def layout(sysfs: Path, ranks: int, allowed: frozenset[int] = ALL) -> CpuLayout:
    return read_layout(numa_cpus(ranks, sysfs), allowed, sysfs)


def test_layout_of_the_machine(sysfs: Path) -> None:
    found = layout(sysfs, 4)
    assert found.cores == tuple((core, core + 8) for core in range(8))
    assert found.near == (SOCKETS[0], SOCKETS[0], SOCKETS[1], SOCKETS[1])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("socket", [set(SOCKETS[0])] * 2 + [set(SOCKETS[1])] * 2),
        ("single_single", [{0}, {0}, {4}, {4}]),
        ("single_single_unique", [{0}, {1}, {4}, {5}]),
        ("socket_unique_interleaved", [{0, 2, 8, 10}, {1, 3, 9, 11}, {4, 6, 12, 14}, {5, 7, 13, 15}]),
        ("socket_unique_continuous", [{0, 1, 8, 9}, {2, 3, 10, 11}, {4, 5, 12, 13}, {6, 7, 14, 15}]),
        ("disabled", [set(ALL)] * 4),
    ],
)
def test_modes(sysfs: Path, mode: affinity.Mode, expected: list[set[int]]) -> None:
    assert [set(choose_cpus(layout(sysfs, 4), mode, rank)) for rank in range(4)] == expected


@pytest.mark.parametrize("mode", ["socket_unique_interleaved", "socket_unique_continuous"])
def test_shares_are_equal_and_disjoint(sysfs: Path, mode: affinity.Mode) -> None:
    """Three ranks, two of them on the first socket: each gets two cores, though the third could have four."""
    chosen = [choose_cpus(layout(sysfs, 3), mode, rank) for rank in range(3)]
    assert [len(cpus) for cpus in chosen] == [4, 4, 4]
    assert len(frozenset().union(*chosen)) == 12


def test_one_rank_has_its_whole_socket(sysfs: Path) -> None:
    assert choose_cpus(layout(sysfs, 1), "socket_unique_continuous", 0) == SOCKETS[0]


def test_container_that_allows_few_cpus(sysfs: Path) -> None:
    found = layout(sysfs, 2, allowed=frozenset({1, 2, 9}))
    assert found.cores == ((1, 9), (2,))
    assert found.near == ({1, 2, 9}, {1, 2, 9})  # the second node is out of reach: what there is, is shared
    chosen = [choose_cpus(found, "socket_unique_continuous", rank) for rank in range(2)]
    assert chosen == [{1, 9}, {2}]


def test_more_ranks_than_cores_share_in_turn(sysfs: Path) -> None:
    found = layout(sysfs, 3, allowed=frozenset({1, 2}))
    assert [choose_cpus(found, "socket_unique_interleaved", rank) for rank in range(3)] == [{1}, {2}, {1}]
    assert [choose_cpus(found, "single_single_unique", rank) for rank in range(3)] == [{1}, {2}, {1}]


def test_gpus_name_their_sockets(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [SimpleNamespace(pci_domain_id=0, pci_bus_id=bus, pci_device_id=0) for bus in (0xDC, 0x1B)]
    devices.append(SimpleNamespace(name="a PyTorch that does not tell the address"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: devices[index])
    for address, cpus in (("0000:dc:00.0", "4-7,12-15"), ("0000:1b:00.0", "0-3,8-11")):
        folder = sysfs / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "local_cpulist").write_text(cpus + "\n")
    near = gpu_cpus(3, sysfs)
    assert near == [SOCKETS[1], SOCKETS[0], frozenset()]
    found = read_layout(near, ALL, sysfs)
    assert [min(choose_cpus(found, "single_single", rank)) for rank in range(3)] == [4, 0, 0]


def test_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = read_layout(numa_cpus(2, tmp_path), frozenset({0, 1, 2, 3}), tmp_path)
    assert [choose_cpus(found, "socket_unique_continuous", rank) for rank in range(2)] == [{0, 1}, {2, 3}]


def test_rank_zero_binds_itself_after_it_started_the_others(tmp_path: Path) -> None:
    """Or they would inherit its cores and share them with it."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, sys\n"
        "from lightning_fabric import Fabric\n"
        "from runtime.affinity import bind_rank\n"
        "if __name__ == '__main__':\n"
        "    fabric = Fabric(accelerator='cpu', devices=2, strategy='ddp')\n"
        "    fabric.launch()\n"
        "    bind_rank('single_single_unique', fabric, 1)\n"
        "    open(sys.argv[1] + str(fabric.global_rank), 'w').write(str(sorted(os.sched_getaffinity(0))))\n"
        "    fabric.barrier()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(tmp_path / "rank")], check=True, env=environment, timeout=120)
    bound = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    assert bound[0] != bound[1] or len(os.sched_getaffinity(0)) == 1


def test_binding_this_process(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[frozenset[int]] = []
    monkeypatch.setattr(affinity, "SYSFS", sysfs)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(ALL))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: bound.append(cpus))
    unbound_cpus.cache_clear()
    assert set_affinity("disabled", 1, 2, gpu=False) == ALL
    assert bound == []
    assert set_affinity("single_single_unique", 1, 2, gpu=False) == {4}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4})
    assert set_affinity("single_single_unique", 1, 2, gpu=False) == {4}  # a second time changes nothing
    assert bound == [{4}, {4}]
    unbound_cpus.cache_clear()
