"""Augmented samples: our loader, which reads them too, beside nnU-Net v2's transforms."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader import LoaderBenchmark, interleave
from benchmarks.made_up import made_up_plan, make_cases
from benchmarks.peers.comparison import Comparison, scaled
from cases.case import list_cases
from data_loading.augmentation.pipeline import Augmentation
from data_loading.module import LoaderSettings, patch_loader


def loader(rounds: int, scale: float) -> list[Comparison]:
    """Augmented samples a CPU second."""
    sizes = (
        ((40, 56, 40), (73, 80, 64), (80, 100, 90), 8),
        ((128, 128, 128), (205, 205, 205), (200, 362, 362), 2),
    )
    rows = []
    for patch, reading, volume, batch in sizes:
        patch_size, input_dhw, volume_dhw = ((scaled(s, scale)) for s in (patch, reading, volume))
        settings = LoaderBenchmark(
            patch_size=patch_size,
            volume_dhw=volume_dhw,
            batch_size=batch,
            steps=max(4, 64 // batch),
            rounds=rounds,
            warmup=3,
        )
        rates = _loader_rates(settings, input_dhw)
        pairs = zip(rates["ours"], rates["nnunetv2"], strict=True)
        what = f"patch {'x'.join(map(str, patch_size))}, nnU-Net v2's input {'x'.join(map(str, input_dhw))}"
        rows.append(
            Comparison(
                part="loader",
                what=what,
                peer="nnunetv2, without reading",
                ours=float(np.median([r[0] for r in rates["ours"]])),
                theirs=float(np.median([r[0] for r in rates["nnunetv2"]])),
                unit="samples/CPU s",
                ratio=float(np.median([a[0] / b[0] for a, b in pairs])),
                check="same set of augmentations",
            )
        )
    return rows


def _loader_rates(settings: LoaderBenchmark, input_dhw: tuple[int, ...]) -> dict[str, list[tuple[float, float]]]:
    transform = nnunet_transforms(settings.patch_size)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.standard_normal((1, *input_dhw), dtype=np.float32))
    label = torch.from_numpy(rng.integers(0, 3, (1, *input_dhw), dtype=np.int16))

    def theirs() -> None:
        for _ in range(settings.batch_size):
            out = transform(image=image.clone(), segmentation=label.clone())
            assert out["image"].shape[1:] == settings.patch_size

    with tempfile.TemporaryDirectory() as folder:
        make_cases(Path(folder), settings.volume_dhw, settings.cases)
        plan = made_up_plan(settings.patch_size)
        loading = LoaderSettings(batch_size=settings.batch_size, num_workers=0, steps_per_epoch=10_000)
        cases = list_cases(Path(folder))
        with patch_loader(Path(folder), plan, cases, loading, Augmentation.nnunet()) as batches:
            stream = iter(batches)
            return interleave({"ours": lambda: next(stream), "nnunetv2": theirs}, settings)


def nnunet_transforms(patch_size: Sequence[int]) -> Any:
    """nnU-Net v2's own training transforms for an isotropic 3D patch."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    turn = math.radians(30)
    return nnUNetTrainer.get_training_transforms(
        tuple(patch_size), (-turn, turn), None, (0, 1, 2), False, use_mask_for_norm=[False]
    )
