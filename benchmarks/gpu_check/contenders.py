"""What is measured beside each other: our network and MONAI's in plain PyTorch loops, and main.py's own loops."""

from __future__ import annotations

import gc
import statistics
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.worker import last_line
from inference.sliding_window import SlidingWindow, WindowSettings
from inference.window_grid import axis_starts
from nets.build import build_network
from nets.choice import NetworkChoice
from runtime.latency import StepClock
from training.losses.dice_ce import DiceCrossEntropy
from training.losses.supervision import DeepSupervision
from training.optimization import OptimizationSettings, build_optimizer

Step = Callable[[], object]
Numbers = dict[str, float]
RATE, WAIT = "images/s", "waiting"
LAST = torch.channels_last_3d


@dataclass
class Turns:
    """What contenders reached: numbers of each turn, or the last line of an error, by name."""

    numbers: dict[str, list[Numbers]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def median(self, name: str, number: str = RATE) -> float:
        return statistics.median(turn[number] for turn in self.numbers[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over the rounds of one's rate over another's of the same round."""
        pairs = zip(self.numbers[name], self.numbers[to], strict=True)
        return statistics.median(one[RATE] / other[RATE] for one, other in pairs)


def take_turns(contenders: Mapping[str, Callable[[], Numbers]], rounds: int) -> Turns:
    """Let them take turns. One that fails, in whatever way, costs itself alone."""
    turns = Turns()
    for _ in range(rounds):
        for name, turn in contenders.items():
            if name in turns.errors:
                continue
            try:
                turns.numbers.setdefault(name, []).append(turn())
            except Exception as error:
                traceback.print_exc()
                turns.errors[name] = last_line(error)
                turns.numbers.pop(name, None)
            gc.collect()  # a trainer is a circle, and holds memory of the device
    return turns


def steady_rate(step: Step, items: int, conditions: Conditions) -> float:
    """Items per second of a step, with the next one always queued."""
    clock = StepClock(conditions.device)
    for number in range(conditions.warmup + conditions.steps):
        step()
        clock.tick()
        if number < max(conditions.warmup, 1):
            clock.restart()
    return items * len(clock.seconds()) / clock.span


def half(conditions: Conditions) -> AbstractContextManager[Any]:
    """Mixed precision as main.py chooses it, without the scaling of losses."""
    bf16 = not conditions.gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if bf16 else torch.float16
    return torch.autocast(conditions.device.type, dtype, enabled=conditions.amp)


def our_network(conditions: Conditions) -> nn.Module:
    """The default network of main.py."""
    _, plan = conditions.data()
    return build_network(plan, NetworkChoice.of(conditions.given("train"))).to(conditions.device)


def dynunet(conditions: Conditions) -> nn.Module:
    """MONAI's, of the same stages and channels."""
    from monai.networks.nets import DynUNet  # its absence costs this contender alone

    encoder: Any = build_network(conditions.data()[1], NetworkChoice.of(conditions.given("train"))).encoder
    strides = [[1, 1, 1], *map(list, encoder.strides[1:])]
    network: nn.Module = DynUNet(
        3,
        conditions.channels,
        conditions.classes,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=list(encoder.channels),
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
    )
    return network.to(conditions.device, memory_format=LAST)  # type: ignore[call-overload]


def dynunet_loss() -> Callable[[Any, Tensor], Tensor]:
    from monai.losses import DiceCELoss

    return DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)


def training_step(
    network: nn.Module, loss: Callable[[Any, Tensor], Tensor], batch: Mapping[str, Tensor], conditions: Conditions
) -> Step:
    """An optimiser step in a plain loop, on a constant batch."""
    optimizer = build_optimizer(network.parameters(), OptimizationSettings())
    image = batch["image"].contiguous(memory_format=LAST)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half(conditions):
            value = loss(network(image), batch["label"])
        value.backward()
        optimizer.step()

    return step


def our_training_step(conditions: Conditions) -> Step:
    loss = DeepSupervision(DiceCrossEntropy())
    return training_step(our_network(conditions), loss, conditions.batch(conditions.batch_size), conditions)


def dynunet_training_step(conditions: Conditions) -> Step:
    return training_step(dynunet(conditions), dynunet_loss(), conditions.batch(conditions.batch_size), conditions)


def inference_step(network: nn.Module, conditions: Conditions) -> Step:
    """A batch of windows through a network, which stays on the device."""
    image = conditions.batch(conditions.windows)["image"].contiguous(memory_format=LAST)
    network.eval()

    def step() -> None:
        with torch.inference_mode(), half(conditions):
            network(image)

    return step


def whole_scan(conditions: Conditions) -> tuple[Step, int]:
    """A step that slides over a scan of twice the patch a side, whose scores stay on the device; and its windows."""
    _, plan = conditions.data()
    windows = SlidingWindow.of(plan, WindowSettings(val_batch_size=conditions.windows))
    sides = tuple(2 * side for side in conditions.patch_size)
    scan = np.random.default_rng(0).standard_normal((conditions.channels, *sides), dtype=np.float32)
    pairs = zip(sides, conditions.patch_size, strict=True)
    count = int(np.prod([len(axis_starts(n, side, windows.overlap)) for n, side in pairs]))
    network = our_network(conditions).eval()

    def predictor(batch: Tensor) -> Tensor:
        with half(conditions):
            logits: Tensor = network(batch)[0]
        return logits.float()

    def step() -> None:
        with torch.inference_mode():
            for _ in windows.stream(scan, predictor, device=conditions.device):
                pass

    return step, count


class PlainLoop:
    """A turn of a plain loop, whose step is made when its first turn comes."""

    def __init__(self, make: Callable[[], Step], items: int, conditions: Conditions) -> None:
        self.make, self.items, self.conditions = make, items, conditions
        self._step: Step | None = None

    def __call__(self) -> Numbers:
        self._step = self._step or self.make()
        return {RATE: steady_rate(self._step, self.items, self.conditions)}
