"""One sliding window over a made-up volume, alone in its process, so that the peak of memory is its own.

``python -m benchmarks.peers.one_window --who ours --classes 50 --shape 160 320 320 --window 96 96 96
--out sample.npy`` prints one line of JSON: seconds, CPU seconds, GiB above the start. ``--out`` gets every
ninth score along each axis, to be compared between two runs.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from cases.settings import Settings, above, below_one, setting
from cli.compose import parse
from cli.run import run_command
from inference.sliding_window import SlidingWindow

STEP = 9  # of the sampled scores
Predictor = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class OneWindowSettings(Settings):
    """Whose window, and over what."""

    who: Literal["ours", "monai"] = setting(help="whose sliding window")
    out: Path = setting(help="file of the sampled scores")
    classes: int = setting(50, "classes of the scores", check=above(0))
    shape: tuple[int, int, int] = setting((160, 320, 320), "sides of the volume, D H W", check=above(0))
    window: tuple[int, int, int] = setting((96, 96, 96), "sides of a window, D H W", check=above(0))
    overlap: float = setting(0.5, "overlap of neighbouring windows", check=below_one)
    threads: int = setting(1, "threads of PyTorch", check=above(0))


def small_network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv3d(1, 8, 3, padding=1), nn.LeakyReLU(inplace=True), nn.Conv3d(8, classes, 1))
    return nn.Sequential(*layers).eval()


def ours(image: Tensor, predictor: Predictor, settings: OneWindowSettings) -> tuple[Tensor, Tensor]:
    """Label map and sampled scores, slab by slab."""
    windows = SlidingWindow(patch_size=settings.window, overlap=settings.overlap, batch_size=1)
    labels = torch.empty(settings.shape, dtype=torch.uint8)
    sample = torch.empty(settings.classes, *(len(range(0, n, STEP)) for n in settings.shape))
    for slab in windows.stream(image, predictor):
        labels[slab.place] = slab.scores_cdhw.argmax(dim=0).to(torch.uint8)
        first = -slab.start % STEP
        planes = slab.scores_cdhw.movedim(slab.axis + 1, 1)[:, first::STEP, ::STEP, ::STEP]
        at = (slab.start + first) // STEP
        sample.movedim(slab.axis + 1, 1)[:, at : at + planes.shape[1]] = planes
    return labels, sample


def monai(image: Tensor, predictor: Predictor, settings: OneWindowSettings) -> tuple[Tensor, Tensor]:
    """The same from the whole array of scores."""
    scores = sliding_window_inference(
        image[None], settings.window, 1, predictor, overlap=settings.overlap, mode="gaussian"
    )
    assert isinstance(scores, Tensor)
    return scores[0].argmax(dim=0).to(torch.uint8), scores[0, :, ::STEP, ::STEP, ::STEP].clone()


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse((OneWindowSettings,), argv, (__doc__ or "").split("\n")[0])[OneWindowSettings]
    torch.set_num_threads(settings.threads)
    image = torch.randn(1, *settings.shape, generator=torch.Generator().manual_seed(1))
    network = small_network(settings.classes)
    with torch.inference_mode():
        network(image[:, :16, :16, :16][None])  # libraries load what they load
        before, wall, cpu = _peak_gib(), time.perf_counter(), time.process_time()
        labels, sample = (ours if settings.who == "ours" else monai)(image, network, settings)
        report = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "gib": max(2**-10, _peak_gib() - before),  # no less than a MiB, for ratios
            "labels": int(labels.sum()),
        }
    np.save(settings.out, sample.numpy(), allow_pickle=False)
    print(json.dumps(report))
    return 0


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    run_command(main)
