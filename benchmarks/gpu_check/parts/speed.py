"""Images per second of training and inference: main.py's own loops, with the loader and without, and others'.

All take turns in one process. ``main.py`` is its benchmark, Lightning and all; a constant batch leaves the loader out.
The plain loops show what Lightning costs (ours) and what the network costs (MONAI's DynUNet), on a constant batch too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import (
    RATE,
    WAIT,
    Numbers,
    PlainLoop,
    Turns,
    dynunet,
    dynunet_training_step,
    inference_step,
    our_network,
    our_training_step,
    steady_rate,
    take_turns,
    whole_scan,
)
from benchmarks.gpu_check.report import Row
from cli.benchmark import measure_prediction, measure_training
from runtime.devices import DeviceSettings, build_fabric

LOADED, CONSTANT, PLAIN, MONAI = "with the loader", "constant batch", "our network, plain loop", "DynUNet, plain loop"


def row(**values: Any) -> Row:
    return Row(part="speed", **values)


def rows(conditions: Conditions) -> Iterator[Row]:
    torch.backends.cudnn.benchmark = True  # as main.py has it
    for name, contenders, batch in (
        ("training", training(conditions), conditions.batch_size),
        ("inference", inference(conditions), conditions.windows),
    ):
        yield from compared(name, take_turns(contenders, conditions.rounds), conditions, batch)
    yield row(
        what="inference, whole scans",
        value=steady_rate(*whole_scan(conditions), conditions.few(warmup=1, steps=3)),
        unit="windows/s",
        note="sliding window over a scan in memory, scores on the device",
    )


def training(conditions: Conditions) -> dict[str, Callable[[], Numbers]]:
    """Turns of training by name."""

    def through_main(constant: bool) -> Numbers:
        found = measure_training(conditions.given("train", constant=constant))
        return {RATE: found["throughput_train"], WAIT: found["data_wait_train"]}

    size = conditions.batch_size
    return {
        CONSTANT: partial(through_main, constant=True),
        LOADED: partial(through_main, constant=False),
        PLAIN: PlainLoop(lambda: our_training_step(conditions), size, conditions),
        MONAI: PlainLoop(lambda: dynunet_training_step(conditions), size, conditions),
    }


def inference(conditions: Conditions) -> dict[str, Callable[[], Numbers]]:
    """Turns of inference by name."""

    def through_main(constant: bool) -> Numbers:
        given = conditions.given("predict", constant=constant)
        found = measure_prediction(given, build_fabric(given[DeviceSettings]))
        return {RATE: found["throughput_predict"], WAIT: found["data_wait_predict"]}

    size = conditions.windows
    return {
        CONSTANT: partial(through_main, constant=True),
        LOADED: partial(through_main, constant=False),
        PLAIN: PlainLoop(lambda: inference_step(our_network(conditions), conditions), size, conditions),
        MONAI: PlainLoop(lambda: inference_step(dynunet(conditions), conditions), size, conditions),
    }


def compared(name: str, turns: Turns, conditions: Conditions, batch: int) -> Iterator[Row]:
    """Rates of all, then what follows from two of them."""
    for contender, error in turns.errors.items():
        yield row(what=f"{name}, {contender}", error=error)
    for contender in turns.numbers:
        ours = contender in (LOADED, CONSTANT)
        yield row(
            what=f"{name}, {contender}",
            value=turns.median(contender),
            unit=RATE,
            goal=conditions.goal(name) if ours else None,
            note=f"batch {batch}, {conditions.what}",
        )
    if {LOADED, CONSTANT} <= turns.numbers.keys():
        yield row(
            what=f"{name}, loader efficiency",
            value=turns.ratio(LOADED, CONSTANT),
            unit="of a constant batch",
            goal=conditions.goal("loader efficiency"),
        )
        yield row(
            what=f"{name}, host's time in the loader",
            value=turns.median(LOADED, WAIT),
            unit="%",
            better="lower",
            note="passes while the device works, so far as the step is longer",
        )
    if {CONSTANT, MONAI} <= turns.numbers.keys():
        yield row(what=f"{name}, beside DynUNet", value=turns.ratio(CONSTANT, MONAI), unit="times its rate")
