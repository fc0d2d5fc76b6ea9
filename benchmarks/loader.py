"""How fast patches are loaded, against a pipeline like NVIDIA's nnU-Net for PyTorch, in one run, interleaved.

Both read the same volumes and give batches of the same shape. The baseline reads whole volumes with DALI's
numpy reader, finds the foreground with ``random_object_bbox``, crops, and computes every augmentation on
every sample before it chooses; ours is the training loader with nnU-Net's full set. Samples/s a core are
samples over the CPU seconds of this process and its workers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dmath

from benchmarks.made_up import made_up_plan, make_cases
from benchmarks.turns import cpu_seconds, settle
from cases.case import list_cases
from data_loading.augmentation.pipeline import EFFECTS, Augmentation
from data_loading.dali import dali_threads
from data_loading.module import LoaderSettings, patch_loader

Node = Any
SHARE = 0.15  # of samples that the baseline zooms, blurs ...


@dataclass(frozen=True, kw_only=True)
class LoaderBenchmark:
    """What is measured.

    Attributes:
        volume_dhw: of the made-up scans; the default is 105 MB in float32.
        cases: how many of them.
        rounds: of ``steps`` batches, the two pipelines taking turns; the median counts.
        folder: where the volumes are kept; None for a temporary folder.
        device_id: the GPU; None for the CPU.
    """

    patch_size: tuple[int, int, int] = (128, 128, 128)
    volume_dhw: tuple[int, int, int] = (200, 362, 362)
    cases: int = 4
    batch_size: int = 2
    steps: int = 8
    warmup: int = 4
    rounds: int = 5
    num_workers: int = 0
    folder: Path | None = None
    device_id: int | None = None


def run(settings: LoaderBenchmark) -> dict[str, float]:
    """Measure both pipelines.

    Returns:
        samples/s a core and samples/s of both, and their ratios ("speedup": a core; "speedup_wall"), each the
        median over the rounds; "volume_mb".
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        make_cases(folder, settings.volume_dhw, settings.cases)
        plan = made_up_plan(settings.patch_size)
        loading = LoaderSettings(
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            steps_per_epoch=settings.warmup + settings.steps * settings.rounds,
        )
        cases, augmentation = list_cases(folder), Augmentation.nnunet()
        with patch_loader(folder, plan, cases, loading, augmentation, device_id=settings.device_id) as loader:
            batches = iter(loader)
            baseline = baseline_pipeline(folder, settings)
            rounds = interleave({"ours": lambda: next(batches), "baseline": baseline.run}, settings)
        del baseline
    result = {"volume_mb": 4e-6 * float(np.prod(settings.volume_dhw))}
    for name, measured in rounds.items():
        result[f"{name}_samples_per_core_s"] = statistics.median(r[0] for r in measured)
        result[f"{name}_samples_per_s"] = statistics.median(r[1] for r in measured)
    pairs = list(zip(rounds["ours"], rounds["baseline"], strict=True))
    result["speedup"] = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
    result["speedup_wall"] = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
    return result


def effects(settings: LoaderBenchmark) -> dict[str, float]:
    """CPU milliseconds a sample: "reading" alone, and with one augmentation that is always drawn."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as open_loaders:
        folder = settings.folder or Path(temporary)
        make_cases(folder, settings.volume_dhw, settings.cases)
        plan = made_up_plan(settings.patch_size)
        steps = {}
        for name in ("reading", *EFFECTS):
            loading = LoaderSettings(
                batch_size=settings.batch_size,
                num_workers=0,
                steps_per_epoch=settings.warmup + settings.steps * settings.rounds,
            )
            only = Augmentation.only(name)
            made = patch_loader(folder, plan, list_cases(folder), loading, only, device_id=settings.device_id)
            steps[name] = partial(next, iter(open_loaders.enter_context(made)))
        rounds = interleave(steps, settings)
    return {name: 1000 / statistics.median(r[0] for r in measured) for name, measured in rounds.items()}


def interleave(
    steps: Mapping[str, Callable[[], object]], settings: LoaderBenchmark
) -> dict[str, list[tuple[float, float]]]:
    """Let the pipelines take turns: (samples per CPU second, samples per second) by name and round."""
    for step in steps.values():
        for _ in range(settings.warmup):
            step()
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    samples = settings.steps * settings.batch_size
    for _ in range(settings.rounds):
        for name, step in steps.items():
            settle()
            cpu, wall = cpu_seconds(), time.perf_counter()
            for _ in range(settings.steps):
                step()
            elapsed = time.perf_counter() - wall
            settle()  # each batch taken starts another: wait for what this round began
            rounds[name].append((samples / (cpu_seconds() - cpu), samples / elapsed))
    return rounds


def baseline_pipeline(folder: Path, settings: LoaderBenchmark) -> Any:
    """A pipeline of whole-volume reads and of augmentations that are computed, then chosen."""
    cases = list_cases(folder)

    @pipeline_def
    def pipeline() -> tuple[Node, Node]:
        image, label = (_read_volumes(folder, cases, suffix) for suffix in ("x", "y"))
        image, label = _biased_crop(image, label, settings.patch_size)
        if settings.device_id is not None:
            image, label = image.gpu(), label.gpu()
        image, label = _zoom_and_flip(image, label, settings.patch_size)
        return _change_intensities(image), label

    built = pipeline(
        batch_size=settings.batch_size,
        num_threads=dali_threads(),
        device_id=settings.device_id,
        prefetch_queue_depth=2,
        seed=1,
    )
    built.build()
    return built


def _read_volumes(folder: Path, cases: Sequence[str], suffix: str) -> Node:
    volume = fn.readers.numpy(
        files=[str(folder / f"{case}_{suffix}.npy") for case in cases],
        name=f"reader_{suffix}",
        seed=1,  # the two readers must shuffle alike to stay paired
        shuffle_after_epoch=True,
    )
    return fn.reshape(volume, layout="CDHW")


def _biased_crop(image: Node, label: Node, patch: Sequence[int]) -> tuple[Node, Node]:
    box: Any = fn.segmentation.random_object_bbox(
        label, format="start_end", foreground_prob=0.4, k_largest=2, cache_objects=True
    )
    corner: Any = fn.roi_random_crop(label, roi_start=box[0], roi_end=box[1], crop_shape=[1, *patch])
    place: dict[str, Any] = {
        "start": fn.cast(corner[1:4], dtype=types.DALIDataType.INT32),
        "shape": list(patch),
        "axis_names": "DHW",
        "out_of_bounds_policy": "pad",
    }
    return fn.slice(image, **place), fn.slice(label, **place)


def _choose(share: float, changed: Node, plain: Node) -> Node:
    coin = fn.cast(fn.random.coin_flip(probability=share), dtype=types.DALIDataType.BOOL)
    return coin * changed + (coin ^ True) * plain


def _zoom_and_flip(image: Node, label: Node, patch: Sequence[int]) -> tuple[Node, Node]:
    scale = _choose(SHARE, fn.random.uniform(range=(0.7, 1.0)), 1.0)
    inner: dict[str, Any] = {"crop_d": scale * patch[0], "crop_h": scale * patch[1], "crop_w": scale * patch[2]}
    axes = ("depthwise", "vertical", "horizontal")
    coins: dict[str, Any] = {axis: fn.random.coin_flip(probability=0.5) for axis in axes}

    def place(node: Node, interpolation: Any) -> Node:
        zoomed: Node = fn.resize(fn.crop(node, **inner), size=list(patch), interp_type=interpolation)
        return fn.flip(zoomed, **coins)

    return place(image, types.DALIInterpType.INTERP_CUBIC), place(label, types.DALIInterpType.INTERP_NN)


def _change_intensities(image: Node) -> Node:
    noisy = image + fn.random.normal(image, stddev=fn.random.uniform(range=(0.0, 0.33)))
    image = _choose(SHARE, noisy, image)
    blurred = fn.gaussian_blur(image, sigma=fn.random.uniform(range=(0.5, 1.5)))
    image = _choose(SHARE, blurred, image)
    image = image * _choose(SHARE, fn.random.uniform(range=(0.7, 1.3)), 1.0)
    low, high = fn.reductions.min(image), fn.reductions.max(image)
    factor = _choose(SHARE, fn.random.uniform(range=(0.65, 1.5)), 1.0)
    return dmath.clamp(image * factor, low, high)
