"""The network's kernels by themselves: each convolution, and the fused norm beside what memory allows."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from benchmarks.convolutions import run
from benchmarks.gpu_check.conditions import Conditions
from benchmarks.gpu_check.contenders import LAST, steady_rate
from benchmarks.gpu_check.report import Row
from benchmarks.gpu_check.worker import last_line
from nets.norm.fused import fits, instance_norm_act

CHANNELS = 32  # at full resolution, where the time goes
PASSES = {"forward": 3, "forward and backward": 8}  # over a tensor: reads twice, writes once; then 2 x 2 and 1 more


def rows(conditions: Conditions) -> Iterator[Row]:
    yield from norm(conditions)
    try:
        yield from convolutions(conditions)
    except Exception as error:  # of a kernel that no device has run yet: costs these rows alone
        traceback.print_exc()
        yield Row(part="kernels", what="convolutions", error=last_line(error))


def norm(conditions: Conditions) -> Iterator[Row]:
    """Bytes per second of the fused norm over those of a copy, which is the limit."""
    dtype = torch.bfloat16 if conditions.amp else torch.float32
    shape = (conditions.batch_size, CHANNELS, *conditions.patch_size)
    x = torch.randn(shape, device=conditions.device).to(dtype).contiguous(memory_format=LAST).requires_grad_()
    weight, bias = (torch.ones(CHANNELS, device=conditions.device, requires_grad=True) for _ in range(2))
    gradient = torch.ones_like(x)
    if not fits(x):
        yield Row(part="kernels", what="fused norm", error="PyTorch's norm is used here: no Triton, or it cannot build")
        return

    def forward() -> torch.Tensor:
        return instance_norm_act(x, weight, bias, eps=1e-5, negative_slope=0.01)

    def both() -> None:
        torch.autograd.grad(forward(), (x, weight, bias), gradient)

    plain = x.detach()
    copied = 2 * passes_per_second(lambda: plain.clone(), conditions)
    gigabytes = plain.numel() * plain.element_size() / 1e9
    yield Row(part="kernels", what="copy in memory", value=copied * gigabytes, unit="GB/s", note="read and write")
    for what, step in (("forward", forward), ("forward and backward", both)):
        rate = PASSES[what] * passes_per_second(step, conditions)
        yield Row(
            part="kernels",
            what=f"fused norm, {what}",
            value=rate / copied,
            unit="of the copy's rate",
            note=f"{'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}: {rate * gigabytes:.0f} GB/s",
        )


def passes_per_second(step: Callable[[], object], conditions: Conditions) -> float:
    return steady_rate(step, 1, conditions)


def convolutions(conditions: Conditions) -> Iterator[Row]:
    """What benchmarks/convolutions.py finds: of each kind of work its fastest form, and all together."""
    found = run(
        device=conditions.device.type,
        sizes=conditions.patch_size,
        repeats=conditions.steps if conditions.gpu else 1,
        batch=conditions.batch_size,
    )
    forms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for form in found:
        forms.setdefault((form["what"], form["pass"]), []).append(form)
    total = 0.0
    for (what, direction), alike in forms.items():
        best = min(alike, key=lambda form: form["ms"])
        total += best["count"] * best["ms"]
        others = [f"{name(form)} {form['ms']:.3g} ms" for form in alike if form is not best]
        yield Row(
            part="kernels",
            what=f"{what}, {direction}",
            value=best["ms"],
            unit="ms",
            better="lower",
            note="; ".join([f"{best['count']} times, {name(best)}{limit(best)}", *others]),
        )
    yield Row(
        part="kernels",
        what="convolutions and norms of a step, each in its fastest form",
        value=total,
        unit="ms",
        better="lower",
        note=f"at most {1000 * conditions.batch_size / total:.0f} images/s with these kernels",
    )


def name(form: Mapping[str, Any]) -> str:
    return f"{form['layout']} by {'ours' if form['by'] == 'own' else 'the library'}"


def limit(form: Mapping[str, Any]) -> str:
    """How near it comes to what the device can do, where that is known."""
    return "" if form["share"] is None else f", {100 * form['share']:.0f} % of the limit"
