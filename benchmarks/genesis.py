"""Speed of the Genesis transformations against the published algorithm in its loop form.

    python -m benchmarks.genesis --repeats 40

The loop form is the definition written down plainly, window by window with NumPy; the tests hold it
and ours to the same statistics. Both run on one core, turn by turn, timed by the process' CPU seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cases.settings import Settings, above, setting
from cli.compose import parse
from cli.run import run_command
from pretraining.genesis.device import transform_on_device
from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.transforms import transform_pair

BEZIER_POINTS = 100_000


def loop_shuffle(x: np.ndarray, rng: np.random.Generator, windows: int) -> np.ndarray:
    """Local shuffling of a (D, H, W) patch."""
    out = x.copy()
    longest = np.maximum(1, np.array(x.shape) // 10)
    sizes = rng.integers(1, longest + 1, (windows, 3))
    starts = rng.integers(0, np.array(x.shape) - sizes + 1)
    for size, start in zip(sizes.tolist(), starts.tolist(), strict=True):
        box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        voxels = x[box].flatten()
        rng.shuffle(voxels)
        out[box] = voxels.reshape(size)
    return out


def loop_nonlinear(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Bezier curve's points, then interpolation between them."""
    (x1, y1), (x2, y2) = rng.random((2, 2))
    t = np.linspace(0, 1, BEZIER_POINTS)
    weights = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
    xs = weights[0] * x1 + weights[1] * x2 + weights[2]
    ys = weights[0] * y1 + weights[1] * y2 + weights[2]
    if rng.random() < 0.5:
        ys = ys[::-1]
    return np.interp(x, xs, ys).astype(np.float32)


def loop_paint(x: np.ndarray, rng: np.random.Generator, show: bool) -> np.ndarray:
    """In-painting, or out-painting where ``show``."""
    out = rng.random(x.shape).astype(np.float32) if show else x.copy()
    for count in range(5):
        if not (show and count == 0) and rng.random() >= 0.95:
            break
        if show:
            size = [n - int(rng.integers(3 * n // 7, 4 * n // 7 + 1)) for n in x.shape]
        else:
            size = [int(rng.integers(n // 6, n // 3 + 1)) for n in x.shape]
        start = [int(rng.integers(3, n - s - 3 + 1)) for n, s in zip(x.shape, size, strict=True)]
        box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        out[box] = x[box] if show else rng.random(size)
    return out


def loop_pair(patch: np.ndarray, rng: np.random.Generator, windows: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, target) of a (1, D, H, W) patch with the published probabilities."""
    target = patch
    for _ in range(3):
        if rng.random() >= 0.4:
            break
        target = np.flip(target, int(rng.integers(1, 4)))
    target = target.copy()
    x = target[0]
    if rng.random() < 0.5:
        x = loop_shuffle(x, rng, windows)
    if rng.random() < 0.9:
        x = loop_nonlinear(x, rng)
    if rng.random() < 0.9:
        x = loop_paint(x, rng, show=rng.random() >= 0.2)
    return x[None], target


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    ms = np.array(seconds) * 1e3
    low, median, high = np.percentile(ms, (5, 50, 95)).tolist()
    return {"mean_ms": float(ms.mean()), "p05_ms": low, "median_ms": median, "p95_ms": high}


def _interleave(
    ours: Callable[[int], object], loop: Callable[[int], object], repeats: int, ours_a_loop: int = 10
) -> dict[str, Any]:
    """CPU seconds of both, ``ours_a_loop`` of ours after each of the loop's."""
    ours(0), loop(0)
    fast, slow = [], []
    for i in range(repeats):
        start = time.process_time()
        loop(i)
        slow.append(time.process_time() - start)
        for k in range(ours_a_loop):
            start = time.process_time()
            ours(i * ours_a_loop + k)
            fast.append(time.process_time() - start)
    return {"ours": _summary(fast), "loop": _summary(slow), "ratio": float(np.mean(slow) / np.mean(fast))}


@dataclass(frozen=True, kw_only=True)
class GenesisBenchmark(Settings):
    """What is transformed, and how often."""

    patch_size: tuple[int, int, int] = setting((32, 64, 64), "sides of a patch, D H W", check=above(0))
    repeats: int = setting(40, "pairs of the loop form, ten of ours after each; batches on --device", check=above(0))
    batch: int = setting(16, "patches at once on --device", check=above(0))
    seed: int = setting(1, "seed of the patch and of what is drawn")
    device: str = setting("cpu", "a CUDA device, such as cuda:0, is measured beside the CPU")


def run(settings: GenesisBenchmark) -> dict[str, Any]:
    """Measure pairs of one channel.

    Returns:
        ``pair``: mean, median and percentiles of both in ms, ``ratio`` of their means (a pair draws what
        it does, so that the mean is what counts), ``pairs_per_second``; ``device`` on CUDA: also
        ``image_gb_per_second``, what images and owner maps move, against ``copy_gb_per_second``.
    """
    rng = np.random.default_rng(settings.seed)
    patch = np.clip(rng.normal(0.4, 0.2, (1, *settings.patch_size)), 0, 1).astype(np.float32)
    published = GenesisSettings()
    pair = _interleave(
        lambda i: transform_pair(patch, settings.seed + i, published), lambda i: loop_pair(patch, rng), settings.repeats
    )
    rate = 1e3 / pair["ours"]["mean_ms"]
    result = {"patch_size": list(settings.patch_size), "pair": pair, "pairs_per_second": rate}
    if torch.device(settings.device).type == "cuda":
        result["device"] = _run_on_device(patch, published, settings.repeats, settings.batch, settings.device)
    return result


def _run_on_device(
    patch: np.ndarray, settings: GenesisSettings, repeats: int, batch: int, device: str
) -> dict[str, float]:
    patches = torch.from_numpy(patch).to(device).expand(batch, *patch.shape).contiguous()

    def seconds(work: Callable[[int], object]) -> float:
        work(0)
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for i in range(repeats):
            work(i)
        torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / repeats

    pairs = seconds(lambda i: transform_on_device(patches, range(i * batch, (i + 1) * batch), settings))
    copy = seconds(lambda i: patches.clone())
    moved = patches.numel() * 4 * 6  # flip read and write; owner clear and read; image read and write
    return {
        "pairs_per_second": batch / pairs,
        "image_gb_per_second": moved / pairs / 1e9,
        "copy_gb_per_second": 2 * 4 * patches.numel() / copy / 1e9,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the numbers as JSON."""
    settings = parse((GenesisBenchmark,), argv, (__doc__ or "").split("\n")[0])[GenesisBenchmark]
    print(json.dumps(run(settings), indent=1))
    return 0


if __name__ == "__main__":
    run_command(main)
