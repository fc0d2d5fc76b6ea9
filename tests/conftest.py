"""Small preprocessed folders, written as preprocess.py writes them; Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cases.case import CaseInfo, Intensity, write_case
from cases.plan import Normalization, Plan
from cases.volumes import Geometry

SHAPE_DHW = (12, 16, 20)  # asymmetric, so that swapped axes fail


def make_plan(patch_size: Sequence[int] = (8, 12, 16), *, channels: int = 1, **changes: object) -> Plan:
    """A plan for :func:`put_case`'s cases: z-scored channels, three labels, 1 mm voxels."""
    values: dict[str, object] = {
        "name": "99_3d",
        "dataset": "Task99_Test",
        "dim": len(patch_size),
        "channels": tuple(f"channel {i}" for i in range(channels)),
        "labels": ("background", "one", "two"),
        "spacing_mm": (1.0, 1.0, 1.0),
        "patch_size": tuple(patch_size),
        "normalization": (Normalization(scheme="zscore"),) * channels,
        "mirror_axes": tuple(range(len(patch_size))),
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


def put_case(folder: Path, case: str, image_cdhw: np.ndarray, label: np.ndarray | None = None) -> None:
    """Write a case whose scan is stored as it is: no crop, no resampling, no padding."""
    shape = image_cdhw.shape[1:]
    foreground = None
    if label is not None:
        voxels = np.argwhere(label[0])
        foreground = np.concatenate([label[0][tuple(voxels.T)][:, None], voxels], axis=1).astype(np.int32)
    info = CaseInfo(
        case=case,
        images=(f"{case}.nii.gz",),
        label=None if label is None else f"{case}_label.nii.gz",
        geometry=Geometry(shape_dhw=shape, spacing_mm=(1.0, 1.0, 1.0), affine=_identity()),
        crop_box=((0, 0, 0), shape),
        shape_resampled=shape,
        pad_before=(0, 0, 0),
        shape_stored=shape,
        spacing_mm=(1.0, 1.0, 1.0),
        intensity=tuple(Intensity(shift=0.0, scale=1.0, low=-2.0, high=2.0) for _ in image_cdhw),
        voxels_per_class=() if label is None else tuple(int(n) for n in np.bincount(label.ravel(), minlength=3)),
        seconds=0.0,
    )
    write_case(folder, info, image_cdhw, label, label, foreground)


def _identity() -> tuple[tuple[float, float, float, float], ...]:
    return tuple(tuple(row) for row in np.eye(4).tolist())


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., tuple[Path, Plan, list[str]]]:
    """Make a folder of cases: ``make_folder(n, image=..., label=..., patch_size=..., dtype=...)``.

    By default the image is a label map (0, 1 or 2 by voxel) and the label is the same: they stay equal
    under every change of place that treats both alike.
    """

    def make(
        n: int = 3,
        *,
        shape_dhw: Sequence[int] = SHAPE_DHW,
        channels: int = 1,
        dtype: str = "float32",
        labelled: bool = True,
        image: Callable[[int], np.ndarray] | None = None,
        **plan_values: object,
    ) -> tuple[Path, Plan, list[str]]:
        folder = tmp_path / f"cases_{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        plan = make_plan(channels=channels, **plan_values)  # type: ignore[arg-type]
        plan.save(folder)
        names = [f"case_{i:02d}" for i in range(n)]
        for i, name in enumerate(names):
            rng = np.random.default_rng(i)
            label = rng.integers(0, 3, (1, *shape_dhw), dtype=np.uint8)
            volume = np.repeat(label, channels, axis=0).astype(dtype) if image is None else image(i).astype(dtype)
            put_case(folder, name, volume, label if labelled else None)
        return folder, plan, names

    return make


@pytest.fixture
def interpret() -> Callable[[Path], None]:
    """Runs a file's tests of the CPU under Triton's interpreter, which a process chooses before it imports Triton."""

    def run(file: Path) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file), "-k", "cpu"]
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

    return run
