"""One case by its plan's recipe, and many cases at once.

:func:`prepare` is the chain without files: preprocessing and the prediction of raw scans both call it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cases.case import CaseError, CaseInfo, open_array, read_info, write_case
from cases.label_values import to_classes
from cases.plan import Plan
from cases.registry import is_own
from cases.volumes import Geometry
from data_preprocessing.layouts.dataset import Scan, array_faults, read_scan
from data_preprocessing.recipes import PreparedCase, RawScan, Recipe, recipe_of
from runtime.parallel import each


class PrepareError(ValueError):
    """A scan that does not fit the plan, or cannot be used at all."""


def prepare(
    image_cdhw: np.ndarray,
    geometry: Geometry,
    plan: Plan,
    *,
    case: str,
    pad: bool,
    label: np.ndarray | None = None,
    images: Sequence[str] = (),
    label_file: str | None = None,
    own: Sequence[str] = (),
) -> PreparedCase:
    """What is stored of one scan, by the plan's recipe.

    Args:
        image_cdhw: the scan's channels in its own units.
        geometry: of the scan.
        plan: of the dataset.
        case: its name, for messages and ``info``.
        pad: for training: padded with zeros, so that no side is below the patch's. In recipe medicalnet:
            cut to a box drawn around the target.
        label: (1, D, H, W) of the label file's values; what is stored are the plan's classes.
        images: names of the scan's files, kept in ``info``.
        label_file: name of the label's file, kept in ``info``.
        own: the command line's own recipes and normalisations, by name.

    Raises:
        PrepareError: naming the case, for another channel count, NaN or infinite voxels, a label of
            another shape or with values that the plan has no class for.
    """
    started = time.perf_counter()
    if faults := array_faults(image_cdhw, label, channels=len(plan.channels), values=plan.values):
        raise PrepareError(f"{case}: " + "; ".join(faults))
    scan = RawScan(
        case=case,
        image_cdhw=image_cdhw,
        geometry=geometry,
        label=None if label is None else to_classes(label, plan.values),
        images=tuple(images),
        label_file=label_file,
        own=tuple(own),
        started=started,
    )
    recipe = recipe_of(plan, own)
    return _by_own(recipe, scan, plan, pad) if is_own(plan.recipe) else recipe.prepare(scan, plan, train=pad)


def _by_own(recipe: Recipe, scan: RawScan, plan: Plan, train: bool) -> PreparedCase:
    """By a user's own recipe, which may fail in any way and return anything."""
    try:
        prepared = recipe.prepare(scan, plan, train=train)
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise PrepareError(f"{scan.case}: --recipe {plan.recipe} failed ({type(error).__name__}: {error})") from error
    if not isinstance(prepared, PreparedCase):
        made = type(prepared).__name__
        raise PrepareError(f"{scan.case}: --recipe {plan.recipe} made a {made}, not a PreparedCase")
    return prepared


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one case ended: ``info``, or the fault in words."""

    case: str
    info: CaseInfo | None = None
    fault: str | None = None
    kept: bool = False


def run(
    scans: Sequence[Scan],
    plan: Plan,
    folder: Path,
    *,
    pad_to_patch: bool,
    float16: bool,
    jobs: int,
    own: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Prepare and write every scan that ``folder`` does not hold yet, in ``jobs`` processes.

    Yields an outcome a scan, in the order in which they end; a bad case costs no other one. ``own`` as in
    :func:`prepare`.

    Raises:
        WorkerError: where a process was killed.
    """
    work = partial(_process, plan=plan, folder=folder, pad_to_patch=pad_to_patch, float16=float16, own=own)
    yield from each(work, scans, jobs)


def _process(scan: Scan, plan: Plan, folder: Path, pad_to_patch: bool, float16: bool, own: Sequence[str]) -> Outcome:
    started = time.perf_counter()
    dtype = np.dtype(np.float16 if float16 else np.float32)
    if (info := whole_case(folder, scan.case, dtype)) is not None:
        return Outcome(case=scan.case, info=info, kept=True)
    try:
        image, geometry, label = read_scan(scan, depth_first=recipe_of(plan, own).depth_first)
        prepared = prepare(
            image,
            geometry,
            plan,
            case=scan.case,
            pad=pad_to_patch,
            label=label,
            images=[path.name for path in scan.images],
            label_file=scan.label.name if scan.label else None,
            own=own,
        )
        del image
        info = replace(prepared.info, seconds=round(time.perf_counter() - started, 3))
        stored = prepared.image_cdhw.astype(dtype, copy=False)
        write_case(folder, info, stored, prepared.label, prepared.original_label, prepared.foreground)
    except MemoryError:
        return Outcome(case=scan.case, fault="not enough memory; use a smaller --n_jobs")
    except (ValueError, OSError) as error:
        return Outcome(case=scan.case, fault=str(error))
    return Outcome(case=scan.case, info=info)


def whole_case(folder: Path, case: str, dtype: np.dtype) -> CaseInfo | None:
    """The json of a case whose arrays are there, of this dtype and of the shapes it tells; else None."""
    try:
        info = read_info(folder, case)
        image = open_array(folder, case, "x")
        arrays = [image] + [open_array(folder, case, "y") for _ in info.voxels_per_class[:1]]
    except CaseError:
        return None
    fits = all(array.shape[1:] == info.shape_stored for array in arrays)
    return info if fits and image.dtype == dtype and len(image) == len(info.intensity) else None
