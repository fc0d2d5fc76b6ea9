"""Each convolution of the default network by itself: ``python -m benchmarks.convolutions --patch 128 128 128``.

Forward, gradient of the input and gradient of the weights, in both layouts, by PyTorch's kernels and, where they fit,
by our own; then instance norm with LeakyReLU. A row says how much of the time the device's limit explains: its tensor
cores or its memory, whichever takes longer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.made_up import made_up_plan
from cases.settings import Settings, above, setting
from cli.compose import parse
from cli.run import run_command
from nets.blocks import CONV, ConvNormAct
from nets.build import build_network
from nets.conv import choice, own
from nets.dynamic_unet import NetworkSettings
from nets.norm import fused

LAYOUTS = {"NCDHW": torch.contiguous_format, "NDHWC": torch.channels_last_3d}
LIMITS = {"H200": (989, 4800), "H100": (989, 3350), "A100": (312, 2039), "B200": (2250, 8000)}  # dense TFLOP/s, GB/s
PASSES = ("forward", "input gradient", "weight gradient")
NO_GRADIENT_OF_BIAS = ((True, False, False), (False, True, False))

Row = dict[str, Any]


@dataclass(frozen=True)
class Convolution:
    """One that a network does, with all that its time depends on."""

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    transposed: bool
    shape: tuple[int, ...]
    out: tuple[int, ...]

    def __str__(self) -> str:
        kernel, sides = ("x".join(map(str, axes)) for axes in (self.weight[2:], self.shape[2:]))
        strided = "" if max(self.stride) == 1 else f" stride {'x'.join(map(str, self.stride))}"
        return f"{kernel} {self.shape[1]}->{self.out[1]} at {sides}{strided}{' up' if self.transposed else ''}"

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        voxels = self.shape if self.transposed else self.out
        return 2 * torch.Size(self.weight).numel() * voxels[0] * torch.Size(voxels[2:]).numel()

    @property
    def values(self) -> int:
        """Of input, weights and output, each once."""
        return sum(torch.Size(shape).numel() for shape in (self.weight, self.shape, self.out))


def run(device: str, sizes: Sequence[int], repeats: int, batch: int = 2) -> list[Row]:
    """Measure all of them.

    Args:
        device: "cuda" or "cpu".
        sizes: D, H, W of the patch.
        repeats: of each measurement, whose median counts.
        batch: patches.

    Returns:
        rows of ``what`` (words), ``count`` (in the network), ``layout``, ``by`` ("library" or "own"), ``pass``, ``ms``,
        ``tflops`` (None for the norm), ``gbs``, and ``share`` of the limit (None where the device's is not known).
    """
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    measured = Measured(device, repeats)
    rows = []
    with torch.backends.cudnn.flags(benchmark=True), torch.no_grad():
        for work, count in convolutions(sizes, batch).items():
            for layout in LAYOUTS:
                rows += [row | {"count": count} for row in measured.convolution(work, layout, dtype)]
        for shape, count in norms(sizes, batch).items():
            rows += [row | {"count": count} for row in measured.norm(shape, dtype)]
    return rows


def convolutions(sizes: Sequence[int], batch: int) -> dict[Convolution, int]:
    """Those of the default network, and how often it does each; nothing is computed."""
    found: dict[Convolution, int] = {}

    def note(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        transposed = isinstance(module, nn.ConvTranspose3d)
        axes = (tuple(module.weight.shape), module.stride, module.padding, transposed)
        work = Convolution(*axes, tuple(inputs[0].shape), tuple(output.shape))
        found[work] = found.get(work, 0) + 1

    _walk(sizes, batch, (nn.Conv3d, nn.ConvTranspose3d), note)
    return found


def norms(sizes: Sequence[int], batch: int) -> dict[tuple[int, ...], int]:
    """Shapes that the default network normalises, and how often it does."""
    found: dict[tuple[int, ...], int] = {}

    def note(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        found[tuple(output.shape)] = found.get(tuple(output.shape), 0) + 1

    _walk(sizes, batch, (ConvNormAct,), note)
    return found


def _walk(sizes: Sequence[int], batch: int, kinds: tuple[type, ...], note: Callable[..., None]) -> None:
    with torch.device("meta"):
        net = build_network(made_up_plan(sizes), NetworkSettings())
        for module in net.modules():
            if isinstance(module, kinds):
                module.register_forward_hook(note)
        net(torch.empty(batch, 1, *sizes))


class Measured:
    """Times on a device, and how near to its limit they come.

    Args:
        device: "cuda" or "cpu".
        repeats: of a measurement.
    """

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
        self.limits = next((limits for known, limits in LIMITS.items() if known in name), None)

    def convolution(self, work: Convolution, layout: str, dtype: torch.dtype) -> Iterator[Row]:
        """Its passes by PyTorch, and by our kernels where they take it."""
        form = LAYOUTS[layout]
        x, weight, gradient = (
            torch.randn(shape, device=self.device, dtype=dtype).to(memory_format=form)
            for shape in (work.shape, work.weight, work.out)
        )
        rest = (work.stride, work.padding, (1, 1, 1), work.transposed, (0, 0, 0), 1)
        forward = torch.ops.aten.convolution
        backward = torch.ops.aten.convolution_backward
        ways: dict[str, list[Callable[[], object]]] = {
            "library": [
                lambda: forward(x, weight, None, *rest),
                *(lambda mask=mask: backward(gradient, x, weight, None, *rest, mask) for mask in NO_GRADIENT_OF_BIAS),
            ]
        }
        if not work.transposed and own.fits(_module(work, weight), x):
            ways["own"] = [
                lambda: own._forward(x, weight, True),
                lambda: own._backward(gradient, x, weight, True, False),
                lambda: own._backward(gradient, x, weight, False, True),
            ]
        moved = work.values * x.element_size()
        for by, steps in ways.items():
            for kind, step in zip(PASSES, steps, strict=True):
                if kind == "input gradient" and work.shape[1] == 1:
                    continue  # nobody wants an image's
                row = {"what": str(work), "layout": layout, "by": by, "pass": kind}
                yield row | self._speed(step, work.operations, moved)

    def norm(self, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Row]:
        """Instance norm and LeakyReLU: the input is read twice and written once, backward both are read twice."""
        x, gradient = (
            torch.randn(shape, device=self.device, dtype=dtype).to(memory_format=torch.channels_last_3d)
            for _ in range(2)
        )
        if not fused.fits(x):
            return
        weight, bias = torch.randn(2, shape[1], device=self.device)
        _, mean, inverse = fused._forward(x, weight, bias, 1e-5, 0.01)
        steps: dict[str, tuple[int, Callable[[], object]]] = {
            "forward": (3, lambda: fused._forward(x, weight, bias, 1e-5, 0.01)),
            "backward": (5, lambda: fused._backward(gradient, x, weight, bias, mean, inverse, 0.01)),
        }
        for kind, (times, step) in steps.items():
            row = {"what": f"norm {shape[1]} at {'x'.join(map(str, shape[2:]))}", "layout": "NDHWC", "by": "own"}
            yield row | {"pass": kind} | self._speed(step, 0, times * x.numel() * x.element_size())

    def _speed(self, step: Callable[[], object], operations: int, moved: int) -> Row:
        seconds = self._seconds(step)
        row: Row = {"ms": 1e3 * seconds, "tflops": operations / seconds / 1e12 if operations else None}
        row |= {"gbs": moved / seconds / 1e9, "share": None}
        if self.limits is not None:
            row["share"] = max(operations / self.limits[0] / 1e12, moved / self.limits[1] / 1e9) / seconds
        return row

    def _seconds(self, step: Callable[[], object]) -> float:
        if self.device.startswith("cuda"):
            return choice.milliseconds((step,), self.repeats)[0] / 1e3
        step()
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def _module(work: Convolution, weight: Tensor) -> nn.Module:
    kernel = work.weight[2:]
    with torch.device("meta"):
        made = CONV[3](work.shape[1], work.out[1], kernel, stride=work.stride, padding=work.padding, bias=False)
    made.weight = nn.Parameter(weight)
    return made


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each row, below a heading."""
    names = f"{'what':38} {'in net':>6} {'layout':7} {'by':8} {'pass':16}"
    yield f"{names} {'ms':>9} {'TFLOP/s':>8} {'GB/s':>8} {'share':>6}"
    for row in rows:
        speed = f"{'-':>8}" if row["tflops"] is None else f"{row['tflops']:8.3f}"
        share = f"{'-':>6}" if row["share"] is None else f"{row['share']:6.1%}"
        names = f"{row['what']:38} {row['count']:6} {row['layout']:7} {row['by']:8} {row['pass']:16}"
        yield f"{names} {row['ms']:9.3f} {speed} {row['gbs']:8.1f} {share}"


@dataclass(frozen=True, kw_only=True)
class ConvolutionsBenchmark(Settings):
    """Whose convolutions, and how often each is repeated."""

    patch: tuple[int, int, int] = setting((128, 128, 128), "sides of the patch, D H W", check=above(0))
    batch_size: int = setting(2, "patches at once", check=above(0))
    repeats: int = setting(20, "of each measurement, whose median counts", check=above(0))
    device: str = setting("cuda" if torch.cuda.is_available() else "cpu", "where they are computed")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    options = parse((ConvolutionsBenchmark,), argv, (__doc__ or "").split(":")[0])[ConvolutionsBenchmark]
    print("\n".join(table(run(options.device, options.patch, options.repeats, options.batch_size))), flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
