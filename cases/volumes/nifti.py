"""NIfTI, through nibabel."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cases.volumes.format import Format, VolumeError
from cases.volumes.geometry import Geometry


class Nifti(Format):
    """``.nii`` and ``.nii.gz``; a fourth dimension, or NIfTI's fifth, are channels."""

    suffixes = (".nii.gz", ".nii")

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See :class:`Format`."""
        image = _open(path)
        geometry = _geometry(path, image)
        if image.get_data_dtype().fields is not None or np.issubdtype(image.get_data_dtype(), np.complexfloating):
            raise VolumeError(f"{path} stores {image.get_data_dtype()} voxels; only plain numbers are read")
        if 0 in image.shape:
            raise VolumeError(f"{path}: shape {image.shape} has no voxels")
        try:
            values = np.asanyarray(image.dataobj)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise VolumeError(f"{path} is damaged or cut short ({error}); get it anew") from error
        if values.ndim == 5 and values.shape[3] == 1:  # NIfTI's own place for vectors, time being the fourth
            values = values[:, :, :, 0]
        if values.ndim > 4:
            raise VolumeError(f"{path} has {values.ndim} dimensions {values.shape}; scans have 3, or 4 with channels")
        values = values.reshape((*values.shape, 1, 1)[: max(values.ndim, 4)] if values.ndim < 3 else values.shape)
        return (values if values.ndim == 4 else values[..., None]).T, geometry

    def write(self, path: Path, array: np.ndarray, geometry: Geometry) -> None:
        """See :class:`Format`."""
        import nibabel

        image = nibabel.Nifti1Image(array.T, geometry.affine_array)
        image.header.set_xyzt_units("mm")
        image.set_sform(geometry.affine_array, code=1)
        image.set_qform(geometry.affine_array, code=1)
        nibabel.save(image, path)


def _open(path: Path) -> Any:
    import nibabel

    try:
        return nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, OSError, EOFError) as error:
        raise VolumeError(f"{path} is not a NIfTI file, or a damaged one ({error}); get it anew") from error


def _geometry(path: Path, image: Any) -> Geometry:
    shape = (*image.shape, 1, 1)[:3]
    spacing = (*image.header.get_zooms(), 1.0, 1.0)[:3]
    if not all(np.isfinite(length) and length > 0 for length in spacing):
        raise VolumeError(f"{path}: voxel size {tuple(map(float, spacing))} is not positive; repair its header")
    if not np.isfinite(image.affine).all():
        raise VolumeError(f"{path}: its affine is not finite; repair its header")
    return Geometry.of(shape[::-1], spacing[::-1], image.affine)
