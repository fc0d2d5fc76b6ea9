"""One training step: ours beside MONAI's DynUNet and losses in a plain loop."""

from __future__ import annotations

from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet

from benchmarks.made_up import made_up_plan
from benchmarks.peers.comparison import Comparison, compare, take_turns, whole_eighths
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings
from training.losses.dice_ce import DiceCrossEntropy
from training.losses.supervision import DeepSupervision
from training.optimization import OptimizationSettings, build_optimizer

FILTERS = (16, 32, 64, 128)
PATCH = (40, 56, 40)
BATCH = 8


def train(rounds: int, scale: float) -> list[Comparison]:
    """A step of ours and of DynUNet in a plain loop: bfloat16, channels-last, the same batch and filters."""
    patch = whole_eighths(PATCH, max(scale, 0.4))  # instance norm needs two voxels at the lowest level
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(BATCH, 1, *patch, generator=generator)
    label = torch.randint(0, 3, (BATCH, 1, *patch), generator=generator, dtype=torch.uint8)
    steps = {"ours": _our_step(patch, image, label), "monai dynunet": _monai_step(image, label)}
    seconds = take_turns(steps, 4 * rounds)
    what = f"batch {BATCH} of {'x'.join(map(str, patch))}, filters {FILTERS}, bf16"
    return compare("train", what, seconds, unit="CPU s", check="one optimiser step")


def _our_step(patch: tuple[int, ...], image: torch.Tensor, label: torch.Tensor) -> Any:
    plan = made_up_plan(patch, channels=("MRI",))
    network = build_network(plan, NetworkSettings(filters=FILTERS, depth=len(FILTERS) - 1, layout="NDHWC"))
    optimizer = build_optimizer(network.parameters(), OptimizationSettings())
    loss = DeepSupervision(DiceCrossEntropy())

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
