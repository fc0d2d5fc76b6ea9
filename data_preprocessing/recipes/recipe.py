"""What a recipe is: a chain from a scan to a case; one file a recipe, see default.py."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cases.case import Box, CaseInfo, Intensity
from cases.plan import Plan
from cases.volumes import Geometry
from data_preprocessing.crop import crop
from data_preprocessing.foreground import sample_foreground

if TYPE_CHECKING:
    from data_preprocessing.planning.fingerprint import Facts

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """What is stored of a case; see cases/case.py.

    Attributes:
        image_cdhw: float32, the scan's channels and, with ``ohe``, the one of its non-zero voxels.
        label: uint8, (1, D, H, W) on the same grid, or None.
        original_label: uint8, (1, D, H, W) on the scan's grid within the crop box, or None.
        foreground: int32 rows (class, d, h, w) into ``label``, or None.
        info: the way back.
    """

    image_cdhw: np.ndarray
    label: np.ndarray | None
    original_label: np.ndarray | None
    foreground: np.ndarray | None
    info: CaseInfo


@dataclass(frozen=True, kw_only=True)
class RawScan:
    """A scan as it was read, and what a recipe needs besides.

    Attributes:
        case: its name, for messages and as seed.
        image_cdhw: float32, the scan's channels in its own units.
        geometry: of the scan.
        label: uint8, (1, D, H, W), or None.
        images, label_file: names of its files, kept in ``CaseInfo``.
        own: the command line's own normalisations, see :func:`data_preprocessing.normalizations.scheme_of`.
        started: when its preparation began, for ``CaseInfo.seconds``.
    """

    case: str
    image_cdhw: np.ndarray
    geometry: Geometry
    label: np.ndarray | None = None
    images: tuple[str, ...] = ()
    label_file: str | None = None
    own: tuple[str, ...] = ()
    started: float = field(default_factory=time.perf_counter)


class Recipe:
    """Base of the recipes.

    Attributes:
        depth_first: whether files hold the depth first, so that scans are turned when they are read.
    """

    depth_first: ClassVar[bool] = False

    def faults(
        self,
        *,
        dim: int,
        ohe: bool,
        normalization: Sequence[str] | None = None,
        spacing: Sequence[float] | None = None,
        resample: bool = True,
        crop: bool = True,
    ) -> list[str]:
        """What of a plan's settings it does not do, in words; see ``PlanSettings`` and ``RecipeSettings``."""
        return []

    def planned(self, plan: Plan, facts: Sequence[Facts], patch_size: tuple[int, ...] | None) -> tuple[Plan, list[str]]:
        """The plan found from sound cases as this recipe wants it, and warnings.

        Args:
            plan: by the default rules.
            facts: of the sound cases.
            patch_size: that the user asked for.
        """
        return (plan.with_(patch_size=patch_size) if patch_size else plan), []

    def describe(self, plan: Plan) -> str:
        """What the plan does to a scan, in words."""
        raise NotImplementedError

    def prepare(self, scan: RawScan, plan: Plan, *, train: bool) -> PreparedCase:
        """What is stored of one scan, which fits the plan.

        Args:
            scan: with or without label.
            plan: of the dataset.
            train: for training; otherwise for prediction and its evaluation, of the whole scan.
        """
        raise NotImplementedError


def finished(
    scan: RawScan,
    plan: Plan,
    image_cdhw: np.ndarray,
    to_stored: Callable[[np.ndarray], np.ndarray],
    *,
    crop_box: Box,
    shape_resampled: Triple,
    pad_before: Triple,
    spacing_mm: tuple[float, float, float],
    intensity: Sequence[Intensity],
    corners: bool = False,
) -> PreparedCase:
    """A case from its stored image: with the label on the same grid, foreground voxels, and the way back.

    Args:
        scan, plan: see :meth:`Recipe.prepare`.
        image_cdhw: the stored image.
        to_stored: takes the label in the crop box to the image's grid.
        crop_box, shape_resampled, pad_before, spacing_mm, intensity, corners: see :class:`CaseInfo`.
    """
    original, label, foreground, counts = _labels(scan, crop_box, to_stored, plan.n_class)
    d, h, w = image_cdhw.shape[1:]
    info = CaseInfo(
        case=scan.case,
        images=scan.images,
        label=scan.label_file,
        geometry=scan.geometry,
        crop_box=crop_box,
        shape_resampled=shape_resampled,
        pad_before=pad_before,
        shape_stored=(d, h, w),
        spacing_mm=spacing_mm,
        intensity=tuple(intensity),
        voxels_per_class=tuple(counts.tolist()),
        seconds=round(time.perf_counter() - scan.started, 3),
        corners=corners,
    )
    return PreparedCase(image_cdhw=image_cdhw, label=label, original_label=original, foreground=foreground, info=info)


def _labels(
    scan: RawScan, box: Box, to_stored: Callable[[np.ndarray], np.ndarray], n_class: int
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray]:
    """The label in the crop box, on the stored grid, its foreground, None without one; voxels of each class."""
    if scan.label is None:
        return None, None, None, np.zeros(0, np.int64)
    original = np.ascontiguousarray(crop(scan.label, box))
    label = to_stored(original)
    counts = np.sum([np.bincount(plane.ravel(), minlength=n_class) for plane in label[0]], axis=0)
    return original, label, sample_foreground(label, counts, seed=zlib.crc32(scan.case.encode())), counts
