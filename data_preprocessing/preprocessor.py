"""The chain of one case, and many cases at once.

read -> crop to non-zero -> resample (3D plans) -> normalise -> pad to the patch (training) -> write.
:func:`prepare` is the chain without files: preprocessing and the prediction of raw scans both call it.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numba
import numpy as np

from cases.case import Box, CaseError, CaseInfo, Intensity, open_array, read_info, write_case
from cases.plan import Plan
from cases.volumes import Geometry
from data_preprocessing.crop import crop, nonzero_box, pad_to
from data_preprocessing.layouts.dataset import Scan, array_faults, read_scan
from data_preprocessing.normalize import normalize, stored_range
from data_preprocessing.recipes.medicalnet import resize_nearest, standardise, training_box
from data_preprocessing.resample import anisotropic_axis, resample_image, resample_label, resampled_shape
from runtime.parallel import each

FOREGROUND_VOXELS = 4096  # of each class in _fg.npy: more places than a patch has ever been centred on


class PrepareError(ValueError):
    """A scan that does not fit the plan, or cannot be used at all."""


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """What is stored of a case; see cases.py.

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
) -> PreparedCase:
    """Crop, resample, normalise and pad one scan; or what the plan's recipe asks for instead.

    A 2D plan keeps the scan's own voxel size and every slice; only H and W are padded.

    Args:
        image_cdhw: the scan's channels in its own units.
        geometry: of the scan.
        plan: of the dataset.
        case: its name, for messages and ``info``.
        pad: pad with zeros, so that no side is below the patch's (training). In recipe medicalnet:
            cut to a box drawn around the target.
        label: uint8, (1, D, H, W).
        images: names of the scan's files, kept in ``info``.
        label_file: name of the label's file, kept in ``info``.

    Raises:
        PrepareError: naming the case, for another channel count, NaN or infinite voxels, a label of
            another shape or with values that the plan has no class for.
    """
    started = time.perf_counter()
    if faults := array_faults(image_cdhw, label, channels=len(plan.channels), n_class=plan.n_class):
        raise PrepareError(f"{case}: " + "; ".join(faults))
    known = partial(CaseInfo, case=case, images=tuple(images), label=label_file, geometry=geometry)
    if plan.recipe == "medicalnet":
        return _prepared_as_medicalnet(image_cdhw, geometry, plan, case=case, train=pad, label=label, known=known)
    box = nonzero_box(image_cdhw)
    cropped = crop(image_cdhw, box)
    spacing_mm = plan.spacing_mm if plan.dim == 3 else geometry.spacing_mm
    shape = resampled_shape(cropped.shape[1:], geometry.spacing_mm, spacing_mm)
    axis = anisotropic_axis(geometry.spacing_mm, spacing_mm)
    least = (1, 1, 1) if not pad else (1, *plan.patch_size)[-3:]

    stored, before, intensity = _normalized(resample_image(cropped, shape, anisotropic_axis=axis), plan, least)
    if plan.ohe:
        seen = (cropped != 0).any(axis=0, keepdims=True).view(np.uint8)
        stored[-1:] = pad_to(resample_label(seen, shape, anisotropic_axis=axis), least)[0]

    def to_stored(label_cdhw: np.ndarray) -> np.ndarray:
        return pad_to(resample_label(label_cdhw, shape, anisotropic_axis=axis), least)[0]

    original, target, foreground, counts = _labels(label, box, to_stored, case, plan.n_class)
    d, h, w = stored.shape[1:]
    info = known(
        crop_box=box,
        shape_resampled=shape,
        pad_before=before,
        shape_stored=(d, h, w),
        spacing_mm=spacing_mm,
        intensity=intensity,
        voxels_per_class=tuple(counts.tolist()),
        seconds=round(time.perf_counter() - started, 3),
    )
    return PreparedCase(image_cdhw=stored, label=target, original_label=original, foreground=foreground, info=info)


def _prepared_as_medicalnet(
    image_cdhw: np.ndarray,
    geometry: Geometry,
    plan: Plan,
    *,
    case: str,
    train: bool,
    label: np.ndarray | None,
    known: partial[CaseInfo],
) -> PreparedCase:
    """The chain of recipe medicalnet; every stored case has the patch's size. The case's name is the seed."""
    started = time.perf_counter()
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    whole: Box = ((0, 0, 0), geometry.shape_dhw)
    box = training_box(image_cdhw, label, rng) if train else whole
    d, h, w = plan.patch_size
    resized = resize_nearest(crop(image_cdhw, box), (d, h, w))
    stored = np.empty(resized.shape, np.float32)
    intensity = []
    for channel, target, how in zip(resized, stored, plan.normalization, strict=True):
        target[...], shift, scale = standardise(channel, rng)
        low, high = stored_range(target, how)
        intensity.append(Intensity(shift=shift, scale=scale, low=low, high=high))
    to_stored = partial(resize_nearest, shape_dhw=(d, h, w))
    original, wanted, foreground, counts = _labels(label, box, to_stored, case, plan.n_class)
    sides = zip(*box, geometry.spacing_mm, plan.patch_size, strict=True)
    z, y, x = ((end - start) * length / side for start, end, length, side in sides)
    info = known(
        crop_box=box,
        shape_resampled=(d, h, w),
        pad_before=(0, 0, 0),
        shape_stored=(d, h, w),
        spacing_mm=(z, y, x),
        intensity=tuple(intensity),
        voxels_per_class=tuple(counts.tolist()),
        seconds=round(time.perf_counter() - started, 3),
        corners=True,
    )
    return PreparedCase(image_cdhw=stored, label=wanted, original_label=original, foreground=foreground, info=info)


def _labels(
    label: np.ndarray | None, box: Box, to_stored: Callable[[np.ndarray], np.ndarray], case: str, n_class: int
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray]:
    """The label in the crop box, on the stored grid, its foreground, None without one; voxels of each class."""
    if label is None:
        return None, None, None, np.zeros(0, np.int64)
    original = np.ascontiguousarray(crop(label, box))
    target = to_stored(original)
    counts = np.sum([np.bincount(plane.ravel(), minlength=n_class) for plane in target[0]], axis=0)
    return original, target, sample_foreground(target, counts, seed=zlib.crc32(case.encode())), counts


def _normalized(
    image_cdhw: np.ndarray, plan: Plan, least: Sequence[int]
) -> tuple[np.ndarray, tuple[int, int, int], tuple[Intensity, ...]]:
    """Channels at the network's scale amid zeros, room for ``ohe`` behind them; zeros before; ranges."""
    shape = image_cdhw.shape[1:]
    sides = [max(side, want) for side, want in zip(shape, least, strict=True)]
    d, h, w = ((side - s) // 2 for side, s in zip(sides, shape, strict=True))
    stored = np.zeros((plan.in_channels, *sides), np.float32)
    intensity = []
    for index, (channel, how) in enumerate(zip(image_cdhw, plan.normalization, strict=True)):
        values, shift, scale = normalize(channel, how)
        stored[index, d : d + shape[0], h : h + shape[1], w : w + shape[2]] = values
        low, high = stored_range(values, how)
        intensity.append(Intensity(shift=shift, scale=scale, low=low, high=high))
    if plan.ohe:
        intensity.append(Intensity(shift=0.0, scale=1.0, low=0.0, high=1.0))
    return stored, (d, h, w), tuple(intensity)


def sample_foreground(label_1dhw: np.ndarray, counts: np.ndarray, *, seed: int) -> np.ndarray:
    """Up to ``FOREGROUND_VOXELS`` voxels of each class above 0, spread evenly over its voxels.

    Args:
        label_1dhw: uint8, (1, D, H, W).
        counts: voxels of each class.
        seed: of the place within each of the even stretches.

    Returns:
        int32, rows (class, d, h, w), sorted by place.
    """
    rng = np.random.default_rng(seed)
    wanted = np.minimum(counts, FOREGROUND_VOXELS)
    wanted[0] = 0
    ranks = np.full((len(counts), FOREGROUND_VOXELS + 1), -1, np.int64)
    for value in np.flatnonzero(wanted):
        edges = np.arange(wanted[value] + 1) * counts[value] // wanted[value]
        ranks[value, : wanted[value]] = rng.integers(edges[:-1], edges[1:])
    rows = np.empty((int(wanted.sum()), 4), np.int32)
    _pick(label_1dhw[0], ranks, rows)
    return rows


@numba.njit(cache=True, nogil=True)
def _pick(label_dhw: np.ndarray, ranks: np.ndarray, rows: np.ndarray) -> None:
    """Rows of the voxels that are the ranks[c, 0]-th, ranks[c, 1]-th, ... of their class c."""
    seen = np.zeros(len(ranks), np.int64)
    taken = np.zeros(len(ranks), np.int64)
    filled = 0
    for d in range(label_dhw.shape[0]):
        for h in range(label_dhw.shape[1]):
            for w in range(label_dhw.shape[2]):
                value = label_dhw[d, h, w]
                if value == 0:
                    continue
                if seen[value] == ranks[value, taken[value]]:
                    rows[filled, 0], rows[filled, 1], rows[filled, 2], rows[filled, 3] = value, d, h, w
                    filled += 1
                    taken[value] += 1
                seen[value] += 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one case ended: ``info``, or the fault in words."""

    case: str
    info: CaseInfo | None = None
    fault: str | None = None
    kept: bool = False


def run(
    scans: Sequence[Scan], plan: Plan, folder: Path, *, pad_to_patch: bool, float16: bool, jobs: int
) -> Iterator[Outcome]:
    """Prepare and write every scan that ``folder`` does not hold yet, in ``jobs`` processes.

    Yields an outcome a scan, in the order in which they end; a bad case costs no other one.

    Raises:
        WorkerError: where a process was killed.
    """
    work = partial(_process, plan=plan, folder=folder, pad_to_patch=pad_to_patch, float16=float16)
    yield from each(work, scans, jobs)


def _process(scan: Scan, plan: Plan, folder: Path, pad_to_patch: bool, float16: bool) -> Outcome:
    started = time.perf_counter()
    dtype = np.dtype(np.float16 if float16 else np.float32)
    if (info := whole_case(folder, scan.case, dtype)) is not None:
        return Outcome(case=scan.case, info=info, kept=True)
    try:
        image, geometry, label = read_scan(scan, depth_first=plan.recipe == "medicalnet")
        prepared = prepare(
            image,
            geometry,
            plan,
            case=scan.case,
            pad=pad_to_patch,
            label=label,
            images=[path.name for path in scan.images],
            label_file=scan.label.name if scan.label else None,
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
