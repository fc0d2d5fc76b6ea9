"""Made-up data for measurements: plans, and preprocessed cases as preprocess.py would store them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cases.case import CaseInfo, Intensity, write_case
from cases.plan import Normalization, Plan
from cases.volumes import Geometry


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of made-up data, and the precision that goes with them.

    Attributes:
        volume_dhw: of a scan.
        patch_size: (D, H, W).
        channels: of a scan.
        classes: with the background.
        amp: mixed precision.
    """

    volume_dhw: tuple[int, int, int]
    patch_size: tuple[int, int, int]
    channels: int
    classes: int
    amp: bool


# What the goals name, and what NVIDIA's nnU-Net measures: the Decathlon's task 01, whose scans have this median shape.
GOALS = Sizes(volume_dhw=(138, 169, 138), patch_size=(128, 128, 128), channels=4, classes=4, amp=True)
SMALL = Sizes(volume_dhw=(96, 112, 104), patch_size=(64, 64, 64), channels=1, classes=3, amp=False)


def sizes_on(device_id: int | None) -> Sizes:
    """The goals' on a GPU, small ones on a CPU."""
    return SMALL if device_id is None else GOALS


def plan_of(patch_size: Sequence[int], channels: int, classes: int) -> Plan:
    """A made-up plan of this many z-scored channels and classes."""
    return made_up_plan(
        patch_size,
        channels=tuple(f"channel {i}" for i in range(channels)),
        labels=("background", *(f"organ {i}" for i in range(1, classes))),
        normalization=(Normalization(scheme="zscore"),) * channels,
    )


def made_up_plan(patch_size: Sequence[int], **changes: Any) -> Plan:
    """A 3D plan of one z-scored channel, two organs and voxels of 1 mm.

    Args:
        patch_size: (D, H, W).
        changes: other values of its fields.
    """
    values: dict[str, Any] = {
        "name": "benchmark_3d",
        "dataset": "Benchmark",
        "dim": 3,
        "channels": ("CT",),
        "labels": ("background", "one", "two"),
        "spacing_mm": (1.0, 1.0, 1.0),
        "patch_size": tuple(patch_size),
        "normalization": (Normalization(scheme="zscore"),),
        "mirror_axes": (0, 1, 2),
    }
    return Plan(**values | changes)


def make_cases(
    folder: Path, shape_dhw: tuple[int, int, int], cases: int, *, channels: int = 1, classes: int = 3
) -> None:
    """Write noise volumes with a cuboid organ of each class."""
    label = np.zeros((1, *shape_dhw), np.uint8)
    for value, centre in enumerate(np.linspace(0.4, 0.7, classes - 1), 1):
        label[0][tuple(slice(int(n * centre), int(n * centre) + max(1, n // 10)) for n in shape_dhw)] = value
    voxels = np.argwhere(label[0])
    voxels = voxels[:: max(1, len(voxels) // 20000)]
    foreground = np.concatenate([label[0][tuple(voxels.T)][:, None], voxels], axis=1).astype(np.int32)
    for index in range(cases):
        image = np.random.default_rng(index).standard_normal((channels, *shape_dhw), dtype=np.float32)
        write_case(folder, _info(f"volume_{index}", shape_dhw, channels, classes), image, label, None, foreground)


def _info(case: str, shape: tuple[int, int, int], channels: int, classes: int) -> CaseInfo:
    identity = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    return CaseInfo(
        case=case,
        images=(),
        label=None,
        geometry=Geometry(shape_dhw=shape, spacing_mm=(1.0, 1.0, 1.0), affine=identity),
        crop_box=((0, 0, 0), shape),
        shape_resampled=shape,
        pad_before=(0, 0, 0),
        shape_stored=shape,
        spacing_mm=(1.0, 1.0, 1.0),
        intensity=(Intensity(shift=0.0, scale=1.0, low=-3.0, high=3.0),) * channels,
        voxels_per_class=(1,) * classes,
        seconds=0.0,
    )
