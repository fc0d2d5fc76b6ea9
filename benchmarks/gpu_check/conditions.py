"""Under which conditions the parts measure: device and sizes. What all of them build on made-up data is here too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.made_up import GOALS, make_cases, plan_of
from cases.plan import PLAN_FILE, Plan
from cases.settings import Given

GOAL = {"training": 110.0, "inference": 230.0, "loader efficiency": 0.97}  # images/s on one H200, and a share
DEVICE_SECONDS = 2 / GOAL["inference"]  # a device of the goals' speed takes two patches in so long


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where and how large.

    Attributes:
        folder: of made-up data and whatever else is written; temporary.
        device_id: the GPU; None for the CPU.
        volume_dhw, patch_size, channels, classes: of the made-up scans.
        filters: of the network; empty as the plan has them.
        amp: mixed precision.
        batch_size: patches of a training step.
        windows: patches of an inference step.
        steps: measured of a turn, after ``warmup``.
        rounds: turns of each contender.
        workers: that read.
        tests: what pytest runs; empty: the whole suite.
        limit: seconds that a part may take.
    """

    folder: Path
    device_id: int | None = None
    volume_dhw: tuple[int, int, int] = GOALS.volume_dhw
    patch_size: tuple[int, int, int] = GOALS.patch_size
    channels: int = GOALS.channels
    classes: int = GOALS.classes
    filters: tuple[int, ...] = ()
    amp: bool = GOALS.amp
    batch_size: int = 2
    windows: int = 4
    steps: int = 40
    warmup: int = 10
    rounds: int = 2
    workers: int = 8
    tests: tuple[str, ...] = ()
    limit: float = 600.0

    @classmethod
    def on(cls, device_id: int | None, folder: Path) -> Conditions:
        """The goals' on a GPU. On a CPU just enough that every line is exercised."""
        if device_id is not None:
            return cls(folder=folder, device_id=device_id)
        return cls(
            folder=folder,
            volume_dhw=(20, 24, 28),
            patch_size=(16, 16, 16),
            channels=2,
            classes=3,
            filters=(4, 8, 16),
            amp=False,
            windows=2,
            steps=3,
            warmup=1,
            rounds=1,
            workers=0,  # a process takes seconds to start
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Conditions:
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain | {"folder": Path(values["folder"])})

    @property
    def gpu(self) -> bool:
        return self.device_id is not None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.device_id is None else torch.device("cuda", self.device_id)

    @property
    def what(self) -> str:
        """The step in words."""
        return f"{'x'.join(map(str, self.patch_size))}, {self.channels} channels, {'amp' if self.amp else 'fp32'}"

    def goal(self, name: str) -> float | None:
        """The goals are for a GPU."""
        return GOAL[name] if self.gpu else None

    def data(self) -> tuple[Path, Plan]:
        """Preprocessed made-up cases, five as there are folds, and their plan; made when first asked for."""
        cases = self.folder / "cases"
        if not (cases / PLAN_FILE).is_file():
            cases.mkdir(exist_ok=True)
            kinds = {"channels": self.channels, "classes": self.classes}
            make_cases(cases, self.volume_dhw, 5, **kinds)
            plan_of(self.patch_size, **kinds).save(cases)  # the last one: with it the folder is whole
        return cases, Plan.load(cases)

    def given(self, mode: str, *flags: str, constant: bool = False) -> Given:
        """Settings of ``main.py --benchmark`` in a mode: a pass of so many steps after the warm-up."""
        from cli.modes import PROGRAM  # Lightning and all, which only the worker needs

        folder, _ = self.data()
        batch = self.batch_size if mode == "train" else self.windows
        arguments = ["--exec_mode", mode, "--benchmark", "--data", folder, "--results", self.folder / "results"]
        arguments += ["--gpus", int(self.gpu), "--affinity", "disabled", "--batch_size", batch, "--layout", "NDHWC"]
        arguments += ["--num_workers", self.workers, "--warmup", self.warmup]
        arguments += ["--train_batches" if mode == "train" else "--test_batches", self.warmup + self.steps]
        arguments += ["--amp"] * self.amp + ["--constant_batch"] * constant
        if self.filters:
            arguments += ["--filters", *self.filters, "--depth", len(self.filters) - 1]
        return PROGRAM.read([str(text) for text in (*arguments, *flags)])[1]

    def few(self, *, warmup: int, steps: int) -> Conditions:
        """The same for a step that takes long."""
        return replace(self, warmup=min(warmup, self.warmup), steps=min(steps, self.steps))

    def batch(self, size: int) -> dict[str, torch.Tensor]:
        """A constant batch on the device, as the loader gives them."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(size, self.channels, *self.patch_size, generator=generator)
        label = torch.randint(0, self.classes, (size, 1, *self.patch_size), generator=generator, dtype=torch.uint8)
        return {"image": image.to(self.device), "label": label.to(self.device)}
