"""One look at every case before any work: is it sound, and what do they have in common - the plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cases.plan import MIN_FMAP, Normalization, Plan, halvings, is_anisotropic
from data_preprocessing.crop import nonzero_box
from data_preprocessing.layouts.dataset import Dataset, DatasetError, Scan, array_faults, label_faults, read_scan
from data_preprocessing.planning.tasks import Task
from data_preprocessing.resample import resampled_shape
from runtime.parallel import each

AIR_HU = -900  # below it: air, and what scanners write outside their field of view
AIR_SHARE = 0.01  # of a scan's voxels; body scans have far more, and MRI no value so low
HU_RANGE = (-4096, 32767)
PERCENTILES = (0.5, 99.5)
BUDGET_3D = 128**3
SIDE_2D = 512


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found in one case.

    Attributes:
        case: its name.
        faults: what makes it unusable, in words; the rest is empty then.
        spacing_mm: (D, H, W).
        shape_cropped: of the box of non-zero voxels.
        air: whether a share of its first channel's voxels is as low as air in a CT.
        channels: of the image.
        histogram: int64, (channels, HU): voxels at each whole value of ``HU_RANGE``, over the
            foreground, or over all that is not air where there is no label; None if not asked for.
    """

    case: str
    faults: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shape_cropped: tuple[int, int, int] = (1, 1, 1)
    air: bool = False
    channels: int = 1
    histogram: np.ndarray | None = None


def examine(scans: Sequence[Scan], dataset: Dataset, *, intensities: bool, jobs: int) -> Iterator[Facts]:
    """Read and check every case in ``jobs`` processes; yields in any order.

    Args:
        scans: of the dataset.
        dataset: what it says of itself.
        intensities: whether to count intensities too.
        jobs: processes.
    """
    yield from each(partial(_examine, dataset=dataset, intensities=intensities), scans, jobs)


def _examine(scan: Scan, dataset: Dataset, intensities: bool) -> Facts:
    labelled = len(dataset.labels) > 1 and scan in dataset.training
    if labelled and scan.label is None:
        return Facts(case=scan.case, faults=("dataset.json names no label file; add it",))
    try:
        image, geometry, label = read_scan(scan)
    except (ValueError, OSError) as error:
        return Facts(case=scan.case, faults=(str(error),))
    channels = len(dataset.channels) or len(image)
    n_class = len(dataset.labels)
    of_image = array_faults(image, None, channels=channels, n_class=n_class, empty=True)
    of_label = label_faults(label, image.shape[1:], n_class) if label is not None else ()
    faults = [f"{scan.images[0]}: {fault}" for fault in of_image] + [f"{scan.label}: {fault}" for fault in of_label]
    if faults:
        return Facts(case=scan.case, faults=tuple(faults))
    start, end = nonzero_box(image)
    return Facts(
        case=scan.case,
        spacing_mm=geometry.spacing_mm,
        shape_cropped=(end[0] - start[0], end[1] - start[1], end[2] - start[2]),
        air=bool(np.mean(image[0] <= AIR_HU) >= AIR_SHARE),
        channels=len(image),
        histogram=_histogram(image, label) if intensities else None,
    )


def _histogram(image_cdhw: np.ndarray, label: np.ndarray | None) -> np.ndarray:
    counts = []
    for channel in image_cdhw:
        chosen = channel[label[0] > 0] if label is not None else channel[channel > AIR_HU]
        whole = np.rint(np.clip(chosen, *HU_RANGE)).astype(np.int64) - HU_RANGE[0]
        counts.append(np.bincount(whole, minlength=HU_RANGE[1] - HU_RANGE[0] + 1))
    return np.stack(counts)


def make_plan(
    facts: Sequence[Facts],
    dataset: Dataset,
    *,
    name: str,
    dim: Literal[2, 3],
    ohe: bool,
    task: Task | None = None,
    modality: Literal["CT", "MRI"] | None = None,
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
    spacing_mm = task.spacing_mm if task else target_spacing([entry.spacing_mm for entry in sound])
    normalization, source = [], "constants"
    for index, channel in enumerate(channels):
        if channel.upper() != "CT":
            normalization.append(Normalization(scheme="zscore"))
        elif task and task.ct:
            normalization.append(task.ct)
        else:
            normalization.append(_ct_statistics(sound, index, dataset.name))
            source = "foreground" if len(dataset.labels) > 1 else "not air"
    patch: tuple[int, ...] | None = (task.patch_3d if dim == 3 else task.patch_2d) if task else None
    return Plan(
        name=name,
        dataset=dataset.name,
        dim=dim,
        channels=channels,
        labels=dataset.labels,
        spacing_mm=spacing_mm,
        patch_size=patch or patch_size(sound, spacing_mm, dim),
        normalization=tuple(normalization),
        ohe=ohe,
        mirror_axes=tuple(range(dim)) if task is None or task.mirror else (),
        intensities_from=source,
    )


def looks_like(facts: Sequence[Facts]) -> Literal["CT", "MRI"]:
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


def _ct_statistics(facts: Sequence[Facts], channel: int, name: str) -> Normalization:
    """0.5 and 99.5 percentiles, mean and std of all counted voxels of all cases, to one HU."""
    counts = sum((entry.histogram[channel] for entry in facts if entry.histogram is not None), start=np.int64(0))
    total = int(np.sum(counts))
    if not total:
        raise DatasetError(f"{name}: no foreground voxel in any label, so CT has no statistics; check the labels")
    values = np.arange(HU_RANGE[0], HU_RANGE[1] + 1, dtype=np.float64)
    mean = float((counts * values).sum() / total)
    std = float(math.sqrt((counts * (values - mean) ** 2).sum() / total))
    ranks = [share / 100 * (total - 1) for share in PERCENTILES]
    lower, upper = (float(values[np.searchsorted(np.cumsum(counts), math.floor(rank), side="right")]) for rank in ranks)
    return Normalization(scheme="ct", lower=lower, upper=upper, mean=mean, std=std or 1.0)


def patch_size(facts: Sequence[Facts], spacing_mm: Sequence[float], dim: Literal[2, 3]) -> tuple[int, ...]:
    """A patch that holds the median case, or as much of it as ``BUDGET_3D`` (``SIDE_2D`` a side) allows.

    Sides are multiples of what a U-Net can halve, feature maps keeping at least ``MIN_FMAP`` voxels.
    Where the budget does not reach, the patch is as near to a cube in millimetres as the case allows.
    """
    if dim == 2:
        median = np.median([entry.shape_cropped[1:] for entry in facts], axis=0)
        return tuple(_halvable(min(side, SIDE_2D)) for side in median)
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
