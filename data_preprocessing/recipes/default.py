"""nnU-Net's chain (doi:10.1038/s41592-020-01008-z): crop to non-zero, resample, normalise, pad to the patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import Intensity
from cases.plan import Plan
from data_preprocessing.crop import crop, nonzero_box, pad_to
from data_preprocessing.normalizations import normalize
from data_preprocessing.recipes.recipe import PreparedCase, RawScan, Recipe, finished
from data_preprocessing.resample import anisotropic_axis, resample_image, resample_label, resampled_shape


class Default(Recipe):
    """A 2D plan keeps the scan's own voxel size and every slice; only H and W are padded."""

    def describe(self, plan: Plan) -> str:
        """See :class:`Recipe`."""
        spacing = " x ".join(f"{length:.4g}" for length in plan.spacing_mm)
        patch = " x ".join(map(str, plan.patch_size))
        how = ", ".join(f"{c} {n.scheme}" for c, n in zip(plan.channels, plan.normalization, strict=True))
        counted = any(n.mean is not None for n in plan.normalization)
        source = f" (from voxels: {plan.intensities_from})" if counted else ""
        voxels = f"voxels {spacing} mm" if _resamples(plan) else "voxels as scanned"
        whole = "" if plan.crop else ", whole scans"
        return f"{voxels}{whole}, patch {patch}, {plan.n_class} classes, {how}{source}"

    def prepare(self, scan: RawScan, plan: Plan, *, train: bool) -> PreparedCase:
        """See :class:`Recipe`; padded with zeros for training, so that no side is below the patch's."""
        spacing = scan.geometry.spacing_mm
        box = nonzero_box(scan.image_cdhw) if plan.crop else ((0, 0, 0), scan.geometry.shape_dhw)
        cropped = crop(scan.image_cdhw, box)
        spacing_mm = plan.spacing_mm if _resamples(plan) else spacing
        shape = resampled_shape(cropped.shape[1:], spacing, spacing_mm)
        axis = anisotropic_axis(spacing, spacing_mm)
        least = (1, 1, 1) if not train else (1, *plan.patch_size)[-3:]

        def to_stored(label_cdhw: np.ndarray) -> np.ndarray:
            return pad_to(resample_label(label_cdhw, shape, anisotropic_axis=axis), least)[0]

        resampled = resample_image(cropped, shape, anisotropic_axis=axis)
        stored, before, intensity = _normalized(resampled, plan, least, scan.own)
        if plan.ohe:
            stored[-1:] = to_stored((cropped != 0).any(axis=0, keepdims=True).view(np.uint8))
        return finished(
            scan,
            plan,
            stored,
            to_stored,
            crop_box=box,
            shape_resampled=shape,
            pad_before=before,
            spacing_mm=spacing_mm,
            intensity=intensity,
        )


def _resamples(plan: Plan) -> bool:
    return plan.dim == 3 and plan.resample


def _normalized(
    image_cdhw: np.ndarray, plan: Plan, least: Sequence[int], own: Sequence[str]
) -> tuple[np.ndarray, tuple[int, int, int], list[Intensity]]:
    """Channels at the network's scale amid zeros, room for ``ohe`` behind them; zeros before; ranges."""
    shape = image_cdhw.shape[1:]
    sides = [max(side, want) for side, want in zip(shape, least, strict=True)]
    d, h, w = ((side - s) // 2 for side, s in zip(sides, shape, strict=True))
    stored = np.zeros((plan.in_channels, *sides), np.float32)
    intensity = []
    for index, (channel, how) in enumerate(zip(image_cdhw, plan.normalization, strict=True)):
        values, found = normalize(channel, how, own)
        stored[index, d : d + shape[0], h : h + shape[1], w : w + shape[2]] = values
        intensity.append(found)
    if plan.ohe:
        intensity.append(Intensity(shift=0.0, scale=1.0, low=0.0, high=1.0))
    return stored, (d, h, w), intensity
