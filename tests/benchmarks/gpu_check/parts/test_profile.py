"""What a trace says about waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.parts import profile
from benchmarks.gpu_check.parts.profile import Calls, count, counted, rows, watched

TRAINER, BACKWARD, DALI = 1, 2, 3


def event(cat: str, name: str, ts: float, tid: int = TRAINER, dur: float = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid, "args": args}


TRACE = [
    event("user_annotation", profile.SPAN, 100, dur=100),
    event("cpu_op", "aten::conv3d", 101),
    event("cpu_op", "aten::convolution_backward", 120, BACKWARD),
    event("cuda_runtime", "cudaStreamSynchronize", 130, correlation=1),
    event("cuda_runtime", "cudaDeviceSynchronize", 131, BACKWARD, correlation=2),
    event("cuda_runtime", "cudaEventSynchronize", 132, DALI, correlation=3),  # a thread of DALI's own
    event("cuda_runtime", "cudaDeviceSynchronize", 250, correlation=4),  # the profiler's end
    event("cuda_runtime", "cudaMemcpyAsync", 140, correlation=5),
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 300, tid=7, correlation=5),  # done later
    event("cuda_runtime", "cudaMemcpyAsync", 150, correlation=6),
    event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 151, tid=7, correlation=6),
    event("cuda_runtime", "cudaMemcpyAsync", 160, correlation=7),
    event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 161, tid=7, correlation=7),
    event("cuda_runtime", "cudaMemcpyAsync", 170, DALI, correlation=8),
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 171, tid=7, correlation=8),
    event("cpu_op", profile.READS, 180),
    event("cpu_op", profile.READS, 280),
    {"ph": "M", "name": "process_name", "ts": 0, "pid": 1},
]


def test_threads_of_pytorch_are_counted_within_the_span() -> None:
    calls = Calls()
    count(TRACE, calls)
    assert (calls.synchronisations, calls.to_host, calls.pageable, calls.reads) == (2, 1, 2, 1)


def test_the_goal_of_a_gpu_is_none(tiny: Conditions) -> None:
    calls = Calls(synchronisations=5, pageable=0)
    calls.places.update({"training/learning.py:70": 5})
    synchronisations, to_host, pageable = counted("a step", calls, 5, replace(tiny, device_id=0))
    assert (synchronisations.value, synchronisations.verdict) == (1, "missed")
    assert synchronisations.note == "training/learning.py:70 (5)"
    assert (to_host.verdict, pageable.verdict) == ("met", "met")


def test_a_real_trace_is_read(tiny: Conditions) -> None:
    x = torch.ones(3)
    x.sum().item()
    with watched(tiny) as calls:
        for _ in range(4):
            x.sum().item()
    x.sum().item()
    assert calls.reads == 4
    assert (calls.synchronisations, calls.to_host) == (0, 0)


def test_training_genesis_and_a_scan_are_watched(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {row.what: row for row in rows(tiny)}
    assert list(found) == [
        "reads of a value of a training step",
        "reads of a value of a step of Genesis",
        "reads of a value of a whole scan",
    ]
    assert found["reads of a value of a whole scan"].value == 0
    assert all(row.goal is None for row in found.values())
    monkeypatch.setattr(profile, "count", lambda events, calls: setattr(calls, "reads", 10))
    assert profile.training(tiny).reads == 10  # the trace of the last five steps was taken
