"""Peak memory of each kind of step: what PyTorch held at once. On a CPU, of the process until then."""

from __future__ import annotations

import gc
import resource
import traceback
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import (
    Step,
    dynunet_training_step,
    half,
    inference_step,
    our_network,
    our_training_step,
    whole_scan,
)
from benchmarks.gpu_check.report import Row
from benchmarks.gpu_check.worker import last_line
from nets.choice import NetworkChoice
from pretraining.restoration import RestorationModule
from training.optimization import OptimizationSettings, build_optimizer

GIB = 2**30
TWICE = 2  # the first step makes what the optimiser keeps


def rows(conditions: Conditions) -> Iterator[Row]:
    makers: dict[str, Callable[[Conditions], Step]] = {
        f"training, batch {conditions.batch_size}": our_training_step,
        f"the same with DynUNet, batch {conditions.batch_size}": dynunet_training_step,
        f"inference, batch {conditions.windows}": lambda c: inference_step(our_network(c), c),
        "a whole scan": lambda c: whole_scan(c)[0],
        f"Genesis, batch {conditions.batch_size}": restoration_step,
    }
    note = conditions.what if conditions.gpu else f"{conditions.what}; of the process until then"
    for what, make in makers.items():
        try:
            held = peak(make, conditions) / GIB
        except Exception as error:  # above all that there is not enough of it, which costs this row alone
            traceback.print_exc()
            yield Row(part="memory", what=what, error=last_line(error))
        else:
            yield Row(part="memory", what=what, value=held, unit="GiB", better="lower", note=note)


def peak(make: Callable[[Conditions], Step], conditions: Conditions) -> int:
    """Bytes held at once while a kind of step is made and done."""
    gc.collect()
    if conditions.gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(conditions.device)
    step = make(conditions)
    for _ in range(TWICE):
        step()
    if conditions.gpu:
        return torch.cuda.max_memory_allocated(conditions.device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def restoration_step(conditions: Conditions) -> Step:
    """An optimiser step of a pre-training, in a plain loop."""
    _, plan = conditions.data()
    module = RestorationModule(plan, NetworkChoice.of(conditions.given("train"))).to(conditions.device)
    optimizer = build_optimizer(module.parameters(), OptimizationSettings())
    image = conditions.batch(conditions.batch_size)["image"]
    batch = {"image": image, "target": torch.sigmoid(image)}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half(conditions):
            error = module.error(module.restore(batch["image"]), batch)
        error.backward()
        optimizer.step()

    return step
