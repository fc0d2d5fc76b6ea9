"""From facts of the cases, or a known task's constants, to the plan (nnU-Net, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from cases.plan import MIN_FMAP, Normalization, Plan, PlanError, halvings, is_anisotropic
from cases.registry import stored_name
from cases.settings import Settings, above, at_least, setting
from data_preprocessing.layouts.dataset import Dataset, DatasetError
from data_preprocessing.normalizations import NORMALIZATIONS, PERCENTILES
from data_preprocessing.planning.fingerprint import HU_RANGE, Facts
from data_preprocessing.planning.tasks import Task
from data_preprocessing.resample import resampled_shape

BUDGET_3D = 128**3
SIDE_2D = 512

Modality = Literal["CT", "MRI"]


@dataclass(frozen=True, kw_only=True)
class ModalitySettings(Settings):
    """What the scans are."""

    modality: Modality | None = setting(None, "where dataset.json does not tell; None: by its intensities")


@dataclass(frozen=True, kw_only=True)
class DimensionSettings(Settings):
    """Which network the cases are for."""

    error: ClassVar[type[ValueError]] = PlanError

    dim: Literal[2, 3] = setting(3, "dimensions of the network that will read the cases")


@dataclass(frozen=True, kw_only=True)
class PlanSettings(DimensionSettings):
    """Which network the cases are for."""

    patch_size: tuple[int, ...] | None = setting(
        None,
        "instead of the one found; --recipe medicalnet resizes every scan to it; None there: 56 448 448",
        check=at_least(1),
    )
    ohe: bool = setting(False, "add a channel that is 1 where the scan is not empty")
    spacing: tuple[float, float, float] | None = setting(
        None, "voxel size in mm, D H W, instead of the dataset's median or the task's constant", check=above(0)
    )
    resample: bool = setting(True, "bring all scans to one voxel size; --no-resample keeps each scan's own")
    crop: bool = setting(True, "cut away the border of zeros; --no-crop keeps whole scans")

    def faults(self) -> list[str]:
        faults = []
        if self.patch_size is not None and len(self.patch_size) != self.dim:
            faults.append(
                f"--patch_size {self.patch_size} is not {self.dim} sides above 0, as --dim {self.dim} asks for"
            )
        if self.spacing is not None and (self.dim == 2 or not self.resample):
            faults.append(f"--spacing changes nothing with {'--dim 2' if self.dim == 2 else '--no-resample'}")
        return faults


def make_plan(
    facts: Sequence[Facts],
    dataset: Dataset,
    *,
    name: str,
    dim: Literal[2, 3],
    ohe: bool,
    task: Task | None = None,
    modality: Modality | None = None,
    normalization: Sequence[str] | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    resample: bool = True,
    crop: bool = True,
) -> Plan:
    """The plan of a dataset from its sound cases, and from the constants of a known task.

    Args:
        facts: of every case; those with faults are passed over.
        dataset: the dataset.
        name: of the preprocessed folder.
        dim: of the network.
        ohe: whether cases get a channel of their non-zero voxels.
        task: constants, where there are some.
        modality: of the channels, where the dataset does not name them; None: as :func:`looks_like`.
        normalization: of all channels or of each, names in ``NORMALIZATIONS`` or own ones; None: as
            :func:`usual_scheme`.
        spacing_mm: (D, H, W); None: the task's, or as :func:`target_spacing`.
        resample, crop: see :class:`Plan`.

    Raises:
        DatasetError: if no case is sound, or cases differ in their channels.
    """
    sound = [entry for entry in facts if not entry.faults]
    if not sound:
        raise DatasetError(f"{dataset.name}: none of its {len(facts)} cases can be used")
    if len({entry.channels for entry in sound}) > 1:
        raise DatasetError(
            f"{dataset.name}: some scans have {sound[0].channels} channels, others not; write a dataset.json"
        )
    channels = dataset.channels or (modality or looks_like(sound),) * sound[0].channels
    if spacing_mm is None:
        spacing_mm = task.spacing_mm if task and resample else target_spacing([entry.spacing_mm for entry in sound])
    names = _scheme_names(dataset.name, channels, normalization)
    schemes, source = [], "constants"
    for index, chosen in enumerate(names):
        scheme = stored_name(chosen)
        if not NORMALIZATIONS.get(chosen).statistics:
            schemes.append(Normalization(scheme=scheme))
        elif task and task.ct:
            schemes.append(replace(task.ct, scheme=scheme))
        else:
            schemes.append(_statistics(sound, index, dataset.name, scheme))
            source = "foreground" if len(dataset.labels) > 1 else "not air"
    patch: tuple[int, ...] | None = None
    if task and dim == 2:
        patch = task.patch_2d
    elif task and resample and spacing_mm == task.spacing_mm:  # which the patch was made for
        patch = task.patch_3d
    return Plan(
        name=name,
        dataset=dataset.name,
        dim=dim,
        channels=channels,
        labels=dataset.labels,
        label_values=dataset.label_values,
        regions=dataset.regions,
        spacing_mm=spacing_mm,
        patch_size=patch or patch_size(sound, spacing_mm, dim, resample=resample),
        normalization=tuple(schemes),
        ohe=ohe,
        resample=resample,
        crop=crop,
        mirror_axes=tuple(range(dim)) if task is None or task.mirror else (),
        intensities_from=source,
    )


def _scheme_names(dataset: str, channels: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The normalisation of each channel. Raises DatasetError where another number of them was given."""
    if wanted is None:
        return [usual_scheme(channel) for channel in channels]
    if len(wanted) not in (1, len(channels)):
        raise DatasetError(
            f"--normalization names {len(wanted)}, but scans of {dataset} have {len(channels)} channels: "
            f"{', '.join(channels)}"
        )
    return list(wanted) * (len(channels) if len(wanted) == 1 else 1)


def usual_scheme(channel: str) -> str:
    """How a channel of this name is normalised where nobody says otherwise."""
    return "ct" if channel.upper() == "CT" else "zscore"


def needs_statistics(
    dataset: Dataset, task: Task | None, modality: Modality | None, normalization: Sequence[str] | None
) -> bool:
    """Whether :func:`make_plan`, of the same arguments, may want intensities to be counted."""
    if task is not None and task.ct is not None:
        return False
    channels = dataset.channels or (modality or "CT",)  # CT until the scans have been looked at
    return any(NORMALIZATIONS.get(name).statistics for name in normalization or map(usual_scheme, channels))


def looks_like(facts: Sequence[Facts]) -> Modality:
    """CT where every scan has voxels as low as air in Hounsfield units, else MRI."""
    return "CT" if all(entry.air for entry in facts) else "MRI"


def target_spacing(spacings_mm: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The median; where that is anisotropic, the 10th percentile along its coarsest axis."""
    lengths = np.array(spacings_mm, np.float64)
    target = np.median(lengths, axis=0)
    if is_anisotropic(target.tolist()):
        coarse = int(np.argmax(target))
        target[coarse] = np.percentile(lengths[:, coarse], 10)
    d, h, w = target.tolist()
    return d, h, w


def _statistics(facts: Sequence[Facts], channel: int, name: str, scheme: str) -> Normalization:
    """0.5 and 99.5 percentiles, mean and std of all counted voxels of all cases, to one unit (HU)."""
    counts = sum((entry.histogram[channel] for entry in facts if entry.histogram is not None), start=np.int64(0))
    total = int(np.sum(counts))
    if not total:
        raise DatasetError(f"{name}: no foreground voxel in any label, so CT has no statistics; check the labels")
    values = np.arange(HU_RANGE[0], HU_RANGE[1] + 1, dtype=np.float64)
    mean = float((counts * values).sum() / total)
    std = float(math.sqrt((counts * (values - mean) ** 2).sum() / total))
    ranks = [share / 100 * (total - 1) for share in PERCENTILES]
    lower, upper = (float(values[np.searchsorted(np.cumsum(counts), math.floor(rank), side="right")]) for rank in ranks)
    return Normalization(scheme=scheme, lower=lower, upper=upper, mean=mean, std=std or 1.0)


def patch_size(
    facts: Sequence[Facts], spacing_mm: Sequence[float], dim: Literal[2, 3], *, resample: bool = True
) -> tuple[int, ...]:
    """A patch that holds the median case, or as much of it as ``BUDGET_3D`` (``SIDE_2D`` a side) allows.

    Sides are multiples of what a U-Net can halve, feature maps keeping at least ``MIN_FMAP`` voxels.
    Where the budget does not reach, the patch is as near to a cube in millimetres as the case allows.
    """
    if dim == 2:
        median = np.median([entry.shape_cropped[1:] for entry in facts], axis=0)
        return tuple(_halvable(min(side, SIDE_2D)) for side in median)
    shapes = [entry.shape_cropped for entry in facts]
    if resample:
        shapes = [resampled_shape(entry.shape_cropped, entry.spacing_mm, spacing_mm) for entry in facts]
    median = np.median(shapes, axis=0)
    sides = median.copy()
    cube = float(max(median * spacing_mm))
    while math.prod(sides) > BUDGET_3D:
        cube *= 0.99
        sides = np.minimum(median, cube / np.array(spacing_mm))
    patch = [_halvable(side) for side in sides]
    while math.prod(patch) > BUDGET_3D:  # rounding up went over it: take from the side that gained most
        axis = int(np.argmax([side / want if side > MIN_FMAP else 0 for side, want in zip(patch, sides, strict=True)]))
        patch[axis] -= _stride(patch[axis])
    return tuple(patch)


def _stride(side: float) -> int:
    return int(2 ** halvings(side))


def _halvable(side: float) -> int:
    return math.ceil(side / _stride(side)) * _stride(side)
