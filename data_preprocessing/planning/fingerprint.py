"""One look at every case before any work: is it sound, and what does the plan need to know of it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from data_preprocessing.crop import nonzero_box
from data_preprocessing.layouts.dataset import Dataset, Scan, array_faults, label_faults, read_scan
from runtime.parallel import each

AIR_HU = -900  # below it: air, and what scanners write outside their field of view
AIR_SHARE = 0.01  # of a scan's voxels; body scans have far more, and MRI no value so low
HU_RANGE = (-4096, 32767)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found in one case.

    Attributes:
        case: its name.
        faults: what makes it unusable, in words; the rest is empty then.
        spacing_mm: (D, H, W).
        shape_cropped: of the box of non-zero voxels; of the whole scan where nothing is cropped.
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


def examine(
    scans: Sequence[Scan], dataset: Dataset, *, intensities: bool, jobs: int, crop: bool = True
) -> Iterator[Facts]:
    """Read and check every case in ``jobs`` processes; yields in any order.

    Args:
        scans: of the dataset.
        dataset: what it says of itself.
        intensities: whether to count intensities too.
        jobs: processes.
        crop: see :class:`cases.plan.Plan`.
    """
    yield from each(partial(_examine, dataset=dataset, intensities=intensities, crop=crop), scans, jobs)


def _examine(scan: Scan, dataset: Dataset, intensities: bool, crop: bool) -> Facts:
    labelled = len(dataset.labels) > 1 and scan in dataset.training
    if labelled and scan.label is None:
        return Facts(case=scan.case, faults=("dataset.json names no label file; add it",))
    try:
        image, geometry, label = read_scan(scan)
    except (ValueError, OSError) as error:
        return Facts(case=scan.case, faults=(str(error),))
    channels = len(dataset.channels) or len(image)
    of_image = array_faults(image, None, channels=channels, values=dataset.values, empty=True)
    of_label = label_faults(label, image.shape[1:], dataset.values) if label is not None else ()
    faults = [f"{scan.images[0]}: {fault}" for fault in of_image] + [f"{scan.label}: {fault}" for fault in of_label]
    if faults:
        return Facts(case=scan.case, faults=tuple(faults))
    start, end = nonzero_box(image) if crop else ((0, 0, 0), geometry.shape_dhw)
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
