"""The tasks that users know by number: the Medical Segmentation Decathlon and BraTS 2021; the one list of them.

Patch sizes, voxel sizes and CT statistics are those of NVIDIA's nnU-Net, so that results can be
compared. Voxel sizes and patches are (D, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cases.plan import Normalization

Triple = tuple[float, float, float]
Patch = tuple[int, int, int]


class TaskError(ValueError):
    """A task number that leads to no folder."""


@dataclass(frozen=True)
class Task:
    """Constants of one task.

    Attributes:
        folder: the dataset's name.
        spacing_mm: target voxel size.
        patch_3d: 3D patch.
        patch_2d: 2D patch (H, W); None where none was published.
        ct: intensities of CT tasks, Hounsfield units.
        md5: of the published archive ``<folder>.tar``; None for tasks that download.py does not bring.
        mirror: whether training may mirror. Not where a side carries the label: flipping costs
            hippocampus, whose two classes are front and back, 2.5 points of Dice.
    """

    folder: str
    spacing_mm: Triple
    patch_3d: Patch
    patch_2d: tuple[int, int] | None
    ct: Normalization | None = None
    md5: str | None = None
    mirror: bool = True


def _ct(lower: float, upper: float, mean: float, std: float) -> Normalization:
    return Normalization(scheme="ct", lower=lower, upper=upper, mean=mean, std=std)


_MM = (1.0, 1.0, 1.0)
_CUBE = (128, 128, 128)

TASKS = {
    "01": Task("Task01_BrainTumour", _MM, _CUBE, (192, 160), md5="240a19d752f0d9e9101544901065d872"),
    "02": Task("Task02_Heart", (1.37, 1.25, 1.25), (80, 192, 160), (320, 256), md5="06ee59366e1e5124267b774dbd654057"),
    "03": Task(
        "Task03_Liver",
        (1.0, 0.7676, 0.7676),
        _CUBE,
        (512, 512),
        _ct(-17, 201, 99.4, 39.36),
        md5="a90ec6c4aa7f6a3d087205e23d4e6397",
    ),
    "04": Task("Task04_Hippocampus", _MM, (40, 56, 40), (56, 40), md5="9d24dba78a72977dbd1d2e110310f31b", mirror=False),
    "05": Task(
        "Task05_Prostate", (3.6, 0.62, 0.62), (20, 320, 256), (320, 320), md5="35138f08b1efaef89d7424d2bcc928db"
    ),
    "06": Task(
        "Task06_Lung",
        (1.24, 0.79, 0.79),
        (80, 192, 160),
        (512, 512),
        _ct(-1024, 325, -158.58, 324.7),
        md5="8afd997733c7fc0432f71255ba4e52dc",
    ),
    "07": Task(
        "Task07_Pancreas",
        (2.5, 0.8, 0.8),
        (40, 224, 224),
        (512, 512),
        _ct(-96, 215, 77.9, 75.4),
        md5="4f7080cfca169fa8066d17ce6eb061e4",
    ),
    "08": Task(
        "Task08_HepaticVessel",
        (1.5, 0.8, 0.8),
        (64, 192, 192),
        (512, 512),
        _ct(-3, 243, 104.37, 52.62),
        md5="641d79e80ec66453921d997fbf12a29c",
    ),
    "09": Task(
        "Task09_Spleen",
        (1.6, 0.79, 0.79),
        (64, 192, 160),
        (512, 512),
        _ct(-41, 176, 99.29, 39.47),
        md5="410d4a301da4e5b2f6f86ec3ddba524e",
    ),
    "10": Task(
        "Task10_Colon",
        (3.0, 0.78, 0.78),
        (56, 192, 160),
        (512, 512),
        _ct(-30, 165.82, 62.18, 32.65),
        md5="bad7a188931dc2f6acf72b08eb6202d0",
    ),
    "11": Task("BraTS2021_train", _MM, _CUBE, None),
    "12": Task("BraTS2021_val", _MM, _CUBE, None),
}


def task_code(task: str) -> str:
    """Two digits at least: ``4`` -> ``04``."""
    return task.zfill(2)


def task_folder(data: Path, task: str, name: str | None) -> Path:
    """The dataset's folder below ``data``: ``name``, the known one, or the only ``Task<number>_*``.

    Raises:
        TaskError: where none of them is one folder.
    """
    code = task_code(task)
    if name is not None:
        return data / name
    if code in TASKS:
        return data / TASKS[code].folder
    found = sorted(path for path in data.glob(f"Task{code}_*") if path.is_dir())
    if len(found) != 1:
        raise TaskError(f"{len(found)} folders in {data} are named Task{code}_*; name one with --name")
    return found[0]
