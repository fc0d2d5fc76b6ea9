"""Contenders take turns, and one that fails costs itself alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import RATE, dynunet, our_network, steady_rate, take_turns
from nets.build import build_network
from nets.choice import NetworkChoice
from nets.dynamic_unet import NetworkSettings
from tests.conftest import make_plan


def test_turns_are_interleaved_and_an_error_is_kept() -> None:
    order: list[str] = []

    def turn(name: str, rate: float) -> dict[str, float]:
        order.append(name)
        if name == "c":
            raise MemoryError("line\n2 GiB")
        return {RATE: rate}

    turns = take_turns(
        {name: lambda n=name, r=rate: turn(n, r) for name, rate in (("a", 2.0), ("c", 0), ("b", 4.0))}, 2
    )
    assert order == ["a", "c", "b", "a", "b"]
    assert turns.errors == {"c": "MemoryError: 2 GiB"}
    assert (turns.median("b"), turns.ratio("a", "b")) == (4.0, 0.5)
    assert "c" not in turns.numbers


def test_a_rate_leaves_the_warm_up_out(tiny: Conditions, monkeypatch: pytest.MonkeyPatch) -> None:
    now, steps = 0.0, 0

    def step() -> None:
        nonlocal now, steps
        now += 100.0 if steps < tiny.warmup else 0.5
        steps += 1

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert steady_rate(step, 4, tiny) == pytest.approx(8.0)
    assert steps == 3


def test_monais_network_has_the_stages_of_ours(tiny: Conditions) -> None:
    image = tiny.batch(1)["image"]
    with torch.no_grad():
        assert dynunet(tiny).eval()(image).shape == our_network(tiny).eval()(image)[0].shape == (1, 3, 16, 16, 16)


def test_the_goals_network_is_the_default_one() -> None:
    with torch.device("meta"):
        network = build_network(make_plan((128, 128, 128), channels=4), NetworkChoice(network=NetworkSettings()))
    assert network.encoder.channels == (32, 64, 128, 256, 320, 320)
