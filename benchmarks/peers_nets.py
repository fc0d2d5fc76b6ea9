"""Sliding window and training step beside MONAI's: parts of ``benchmark_peers.py``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet

from benchmarks.peers import Comparison, compare, take_turns
from benchmarks.record import RecordError
from cases.plan import Normalization, Plan
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from training.losses import SegmentationLoss
from training.optimization import OptimizationSettings, build_optimizer

FILTERS = (16, 32, 64, 128)
PATCH = (40, 56, 40)
BATCH = 8
PROGRAM = Path(__file__).with_name("benchmark_peers_window.py")


def window(rounds: int, scale: float) -> list[Comparison]:
    """Memory and time of 50 classes where MONAI fits, and of 100 classes where its scores alone take 20 GB."""
    shape, cube = _multiples((160, 320, 320), scale), _multiples((96, 96, 96), scale)
    thin = (cube[0], cube[1], _multiples((32,), scale)[0])
    large = _multiples((200, 512, 512), scale)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        turns: dict[str, list[dict[str, float]]] = {"ours": [], "monai": []}
        for _ in range(min(rounds, 2)):
            for who, reports in turns.items():
                reports.append(_alone(folder / f"{who}.npy", who, 50, shape, cube))
        error = float(np.abs(np.load(folder / "ours.npy") - np.load(folder / "monai.npy")).max())
        check = f"scores within {error:.1e}"
        what = f"{'x'.join(map(str, shape))}, 50 classes, windows {'x'.join(map(str, cube))}"
        for key, unit in (("cpu_seconds", "CPU s"), ("seconds", "s"), ("gib", "GiB above start")):
            measured = {who: [report[key] for report in reports] for who, reports in turns.items()}
            rows += compare("window", what, measured, unit=unit, check=check)
        slim = _alone(folder / "thin.npy", "ours", 50, shape, thin)
        peak = statistics.median(report["gib"] for report in turns["monai"])
        rows.append(_memory(f"the same, windows {'x'.join(map(str, thin))}", "monai, cubes", slim["gib"], peak))
        whole = 100 * 4 * float(np.prod(large)) / 2**30
        big = _alone(folder / "large.npy", "ours", 100, large, cube)
        name = f"{'x'.join(map(str, large))}, 100 classes ({big['cpu_seconds']:.0f} CPU s)"
        rows.append(_memory(name, "the scores alone", big["gib"], whole))
    return rows


def _memory(what: str, peer: str, ours: float, theirs: float) -> Comparison:
    unit = "GiB above start"
    return Comparison(part="window", what=what, peer=peer, ours=ours, theirs=theirs, unit=unit, ratio=theirs / ours)


def _alone(out: Path, who: str, classes: int, shape: Sequence[int], cube: Sequence[int]) -> dict[str, float]:
    """Report of one run in a process of its own."""
    values: dict[str, Sequence[Any]] = {
        "who": [who],
        "out": [out],
        "classes": [classes],
        "shape": shape,
        "window": cube,
    }
    arguments = [str(text) for name, given in values.items() for text in (f"--{name}", *given)]
    command = [sys.executable, str(PROGRAM), *arguments, "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RecordError(f"{PROGRAM.name} {who} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    report: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return report


def train(rounds: int, scale: float) -> list[Comparison]:
    """A step of ours and of DynUNet in a plain loop: bfloat16, channels-last, the same batch and filters."""
    patch = _multiples(PATCH, max(scale, 0.4))  # instance norm needs two voxels at the lowest level
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(BATCH, 1, *patch, generator=generator)
    label = torch.randint(0, 3, (BATCH, 1, *patch), generator=generator, dtype=torch.uint8)
    steps = {"ours": _our_step(patch, image, label), "monai dynunet": _monai_step(image, label)}
    seconds = take_turns(steps, 4 * rounds)
    what = f"batch {BATCH} of {'x'.join(map(str, patch))}, filters {FILTERS}, bf16"
    return compare("train", what, seconds, unit="CPU s", check="one optimiser step")


def _our_step(patch: tuple[int, ...], image: torch.Tensor, label: torch.Tensor) -> Any:
    plan = Plan(
        name="peers_3d",
        dataset="Peers",
        dim=3,
        channels=("MRI",),
        labels=("background", "one", "two"),
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=patch,
        normalization=(Normalization(scheme="zscore"),),
        mirror_axes=(0, 1, 2),
    )
    network = build_network(plan, NetworkSettings(filters=FILTERS, depth=len(FILTERS) - 1, layout="NDHWC"))
    optimizer = build_optimizer(network.parameters(), OptimizationSettings())
    loss = SegmentationLoss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(network(image), label)
        value.backward()
        optimizer.step()

    return step


def _monai_step(image: torch.Tensor, label: torch.Tensor) -> Any:
    kernels, strides = [3] * len(FILTERS), [1] + [2] * (len(FILTERS) - 1)
    network = DynUNet(
        3,
        1,
        3,
        kernels,
        strides,
        strides[1:],
        filters=FILTERS,
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
    ).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=8e-4, weight_decay=1e-4)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(network(image.to(memory_format=torch.channels_last_3d)), label)
        value.backward()
        optimizer.step()
        value.item()

    return step


def _multiples(shape: Sequence[int], scale: float) -> tuple[int, ...]:
    """Sides that can be halved three times."""
    return tuple(max(8, int(n * scale) // 8 * 8) for n in shape)
