"""Parameters, memory and time of a U-Net with each encoder: ``python -m benchmarks.encoders --patch 64 64 64``.

A row is one forward and one backward pass in a process of its own, so that its peak is its own; the weights
are there before it starts. ResNet-152 and 200 recompute their activations. The last column is the published
size of the encoder (arXiv:1904.00625), which counts the moving statistics of its batch norms, as the one before it.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from torch import nn

from benchmarks.checks import among
from benchmarks.made_up import made_up_plan
from cases.settings import Settings, above, setting
from cli.compose import parse
from cli.run import run_command
from nets.build import build_network
from nets.choice import NetworkChoice
from nets.encoders import ENCODERS

MEDICALNET_MILLIONS = {10: 14.36, 18: 32.99, 34: 63.31, 50: 46.21, 101: 85.31, 152: 117.51, 200: 126.74}
CHECKPOINTED = ("resnet152", "resnet200")
GIB = 2**30


def measure(
    encoder: str, patch: tuple[int, ...], batch: int, device: str, amp: bool
) -> tuple[int, int, float, float, int]:
    """(encoder's parameters, all parameters, peak GiB above the start, seconds, moving statistics) of a step."""
    plan = made_up_plan(patch, labels=("background", "organ"))
    checkpointed = {"checkpoint_activations": True} if encoder in CHECKPOINTED else {}
    settings = NetworkChoice.from_json({"encoder": encoder} | checkpointed)
    net = build_network(plan, settings).to(device)
    x = torch.randn(batch, 1, *patch, device=device)
    cuda = device.startswith("cuda")
    if cuda:
        with torch.autocast("cuda", enabled=amp):  # the first pass pays for the choice of algorithms
            net(x)[0].float().square().mean().backward()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = 0.0 if cuda else _peak()
    start = time.perf_counter()
    with torch.autocast(device.split(":")[0], enabled=amp, dtype=torch.bfloat16):
        logits = net(x)[0]
    logits.float().square().mean().backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / GIB if cuda else _peak() - before
    encoding = net.get_submodule("encoder")
    return parameter_count(encoding), parameter_count(net), peak, seconds, statistics_count(encoding)


def statistics_count(module: nn.Module) -> int:
    """Numbers of the moving statistics."""
    return sum(buffer.numel() for buffer in module.buffers() if buffer.ndim)


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(math.prod(p.shape) for p in module.parameters() if p.requires_grad)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


@dataclass(frozen=True, kw_only=True)
class EncodersBenchmark(Settings):
    """Which encoders, and the step that is measured."""

    patch: tuple[int, int, int] = setting((64, 64, 64), "sides of the patch, D H W", check=above(0))
    batch_size: int = setting(1, "patches at once", check=above(0))
    encoders: tuple[str, ...] = setting(tuple(ENCODERS), "encoders to measure", check=among(tuple(ENCODERS)))
    device: str = setting("cuda" if torch.cuda.is_available() else "cpu", "where the step is computed")
    amp: bool = setting(False, "mixed precision")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, row by row."""
    options = parse((EncodersBenchmark,), argv, (__doc__ or "").split(":")[0])[EncodersBenchmark]
    print(
        f"{'encoder':10} {'encoder M':>10} {'all M':>8} {'peak GiB':>9} {'seconds':>8} "
        f"{'statistics too M':>17} {'published M':>12}"
    )
    for encoder in options.encoders:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            task = (encoder, options.patch, options.batch_size, options.device, options.amp)
            ours, total, peak, seconds, statistics = pool.submit(measure, *task).result()
        published = MEDICALNET_MILLIONS.get(int(encoder.removeprefix("resnet")) if "resnet" in encoder else 0)
        row = f"{encoder:10} {ours / 1e6:10.2f} {total / 1e6:8.2f} {peak:9.2f} {seconds:8.2f} "
        row += f"{(ours + statistics) / 1e6:17.2f} "
        print(row + (f"{published:12.2f}" if published else f"{'-':>12}"), flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
