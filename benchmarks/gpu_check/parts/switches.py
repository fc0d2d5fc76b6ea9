"""What --compile, --cuda_graphs and --ema change in the training step: main.py's loop on a constant batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import WeightAveraging

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import RATE, Numbers, take_turns
from benchmarks.gpu_check.report import Row
from cli import building
from cli.benchmark import measure_training
from cli.modes import PROGRAM
from runtime.dllogger_backend import RunLogger
from training.checkpoint import SaveSettings
from training.fitting import FitSettings, training_callbacks

PLAIN = "plain"
DECAY = 0.99
COMPILED = ("cuda_graphs", "compile")  # the one that takes longest last


def rows(conditions: Conditions) -> Iterator[Row]:
    known = PROGRAM.every_field()
    contenders: dict[str, Callable[[], Numbers]] = {
        PLAIN: partial(trained, conditions),
        "--ema": lambda: trained(conditions, averaging=averaging(conditions)),
    }
    for name in COMPILED:
        if name in known and not conditions.gpu:
            yield Row(part="switches", what=f"--{name}", value="left out without a GPU: it compiles for a minute")
        elif name in known:
            contenders[f"--{name}"] = partial(trained, conditions, f"--{name}")
        else:
            yield Row(part="switches", what=f"--{name}", value="not in this version")
    for name, turn in contenders.items():  # one row at a time, for compiling takes a minute
        turns = take_turns({PLAIN: contenders[PLAIN], name: turn}, rounds=1)
        for failed, error in turns.errors.items():
            yield Row(part="switches", what=failed, error=error)
        if name in turns.numbers and PLAIN in turns.numbers and name != PLAIN:
            yield Row(
                part="switches",
                what=f"training with {name}",
                value=turns.median(name),
                unit=RATE,
                note=f"{turns.ratio(name, PLAIN):.3f} times the plain step's {turns.median(PLAIN):.1f}",
            )


def trained(conditions: Conditions, *flags: str, averaging: list[Callback] | None = None) -> Numbers:
    found = measure_training(conditions.given("train", *flags, constant=True), averaging or [])
    return {RATE: found["throughput_train"]}


def averaging(conditions: Conditions) -> list[Callback]:
    """What --ema adds to a training, which main.py --benchmark has no flag for."""
    given = conditions.given("train")
    module = building.build_module(given, building.training_plan(given))
    folder = conditions.folder / "results"
    settings = FitSettings(ema=DECAY), SaveSettings(save_ckpt=False)
    callbacks = training_callbacks(*settings, module, RunLogger(folder / "perf.json"), folder)
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
