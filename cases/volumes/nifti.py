"""NIfTI: its header through nibabel, its voxels as they lie in the file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from cases.volumes.format import Format, VolumeError
from cases.volumes.geometry import Geometry, agree
from cases.volumes.payload import Inflated, damage_named, inflated_voxels, stored_voxels

UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown (taken as mm), metre, mm, micron


class Nifti(Format):
    """``.nii`` and ``.nii.gz``; a fourth dimension, or NIfTI's fifth, are channels."""

    suffixes = (".nii.gz", ".nii")

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See :class:`Format`."""
        from nibabel.volumeutils import apply_read_scaling

        with damage_named(path), path.open("rb") as file:
            stream = Inflated(file) if path.name.endswith(".gz") else file
            header, size = _header(path, stream.read)
            shape, dtype, offset = _layout(path, header)
            geometry = _geometry(path, header, shape)
            scaling = _scaling(path, header)
            if isinstance(stream, Inflated):
                _skip(stream, offset - size)
                values = inflated_voxels(path, stream, shape[::-1], dtype)
            else:
                values = stored_voxels(path, offset, shape[::-1], dtype)
            values = np.asanyarray(apply_read_scaling(values, *scaling))
        return values.reshape((-1, *geometry.shape_dhw)), geometry

    def write(self, path: Path, array: np.ndarray, geometry: Geometry) -> None:
        """See :class:`Format`."""
        import nibabel

        image = nibabel.Nifti1Image(array.T, geometry.affine_array)
        image.header.set_xyzt_units("mm")
        image.set_sform(geometry.affine_array, code=1)
        image.set_qform(geometry.affine_array, code=1)
        nibabel.save(image, path)


def _header(path: Path, read: Any) -> tuple[Any, int]:
    """Its header, checked and mended as nibabel does, and its bytes."""
    import nibabel
    from nibabel.nifti2 import Nifti2Header

    kinds = {348: nibabel.Nifti1Header, 540: Nifti2Header}
    start = read(4)
    size = next((size for size in kinds if start in (struct.pack("<i", size), struct.pack(">i", size))), None)
    if size is None:
        raise VolumeError(f"{path} is not a NIfTI file, or a damaged one (its header has no size); get it anew")
    block = start + read(size - 4)
    if len(block) < size:
        raise EOFError("it ends within its header")
    try:
        header = kinds[size](block, check=False)
        if bytes(header["magic"]).rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
            raise VolumeError(f"{path} is not a NIfTI file with its voxels in it (magic {bytes(header['magic'])!r})")
        if not np.isfinite(header["vox_offset"]) or header["vox_offset"] % 1:
            raise VolumeError(f"{path}: vox_offset {header['vox_offset']} is no place in a file; get it anew")
        header.check_fix()
    except nibabel.spatialimages.HeaderDataError as error:
        raise VolumeError(f"{path} is not a NIfTI file, or a damaged one ({error}); get it anew") from error
    return header, size


def _layout(path: Path, header: Any) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape (x, y, z, channels), type and place of the voxels."""
    shape = tuple(int(side) for side in header["dim"][1 : 1 + int(header["dim"][0])])
    if any(side < 1 for side in shape):
        raise VolumeError(f"{path}: shape {shape} has no voxels")
    wide = (*shape, 1, 1, 1)
    spatial, channels = wide[:3], shape[3:]
    if len(channels) == 2 and channels[0] == 1:  # NIfTI's own place for vectors, time being the fourth
        channels = channels[1:]
    if len(channels) > 1:
        raise VolumeError(f"{path} has {len(shape)} dimensions {shape}; scans have 3, or 4 with channels")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise VolumeError(f"{path} stores {dtype} voxels; only plain numbers are read")
    return (*spatial, *channels), dtype, int(header["vox_offset"])


def _geometry(path: Path, header: Any, shape: tuple[int, ...]) -> Geometry:
    units = int(header["xyzt_units"]) & 7
    if units not in UNITS_MM:
        raise VolumeError(f"{path}: xyzt_units {units} is no unit of length; repair its header")
    pixdim = header["pixdim"][1:4]
    for axis in range(int(header["dim"][0]), 3):  # of planes and lines, whose third length is often left out
        pixdim[axis] = pixdim[axis] if pixdim[axis] > 0 else 1
    affine = header.get_best_affine() * np.array([[UNITS_MM[units]]] * 3 + [[1.0]])
    spacing = pixdim.astype(np.float64) * UNITS_MM[units]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if header["sform_code"] > 0 and header["qform_code"] <= 0 and not agree(spacing, lengths):
        spacing = lengths  # by the standard's method 3 the sform alone says where voxels lie
    return Geometry.of(shape[2::-1], spacing[::-1], affine)


def _scaling(path: Path, header: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of 0, or nan as nibabel writes it, is none."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(inter)):
        raise VolumeError(f"{path}: scl_slope {slope} and scl_inter {inter} are not finite; repair its header")
    return slope, inter


def _skip(stream: Inflated, count: int) -> None:
    while count > 0 and (piece := stream.read(min(count, 1 << 20))):
        count -= len(piece)
