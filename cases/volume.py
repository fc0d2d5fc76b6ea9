"""Image files to (C, D, H, W) arrays with their geometry, and back.

NIfTI goes through nibabel; MetaImage, NRRD and DICOM folders through SimpleITK, whose LPS directions
are turned into the RAS affine of NIfTI. Voxels are never reoriented: D, H, W are the file's third,
second and first index. MedicalNet's files hold the depth first: :func:`turn_axes` and
:meth:`Geometry.turned` make arrays of them whose D, H, W are the first, second and third index.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

if TYPE_CHECKING:
    import SimpleITK

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MISPLACED = 0.1  # of a voxel: corners of two grids farther apart than this are different grids


class VolumeError(ValueError):
    """A file that holds no volume we can use."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a scan's voxels lie.

    Attributes:
        shape_dhw: voxels; D is the last axis of the NIfTI file.
        spacing_mm: (D, H, W).
        affine: 4x4, from the file's voxel indices (x, y, z) = (w, h, d) to millimetres, as NIfTI stores it.
        depth_first: D is the file's first index x, and W its last.
    """

    shape_dhw: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...]
    depth_first: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Geometry:
        return cls(
            shape_dhw=tuple(values["shape_dhw"]),
            spacing_mm=tuple(values["spacing_mm"]),
            affine=tuple(tuple(row) for row in values["affine"]),
            depth_first=values.get("depth_first", False),
        )

    @classmethod
    def of(cls, shape_dhw: Sequence[int], spacing_mm: Sequence[float], affine: np.ndarray) -> Geometry:
        """From any sequences of numbers."""
        d, h, w = (int(side) for side in shape_dhw)
        z, y, x = (float(length) for length in spacing_mm)
        rows = tuple((float(a), float(b), float(c), float(t)) for a, b, c, t in np.asarray(affine))
        return cls(shape_dhw=(d, h, w), spacing_mm=(z, y, x), affine=rows)

    @property
    def affine_array(self) -> np.ndarray:
        return np.array(self.affine, dtype=np.float64)

    @property
    def corners_mm(self) -> np.ndarray:
        """The eight corner voxels' places, (8, 3), millimetres."""
        xyz = self.shape_dhw if self.depth_first else self.shape_dhw[::-1]
        ends = [(0, side - 1) for side in xyz]
        indices = np.array([[*xyz, 1] for xyz in np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T])
        return (indices @ self.affine_array.T)[:, :3]

    def turned(self) -> Geometry:
        """Of the same file, read depth first (or, of a file read so, as usual)."""
        (d, h, w), (z, y, x) = self.shape_dhw, self.spacing_mm
        return replace(self, shape_dhw=(w, h, d), spacing_mm=(x, y, z), depth_first=not self.depth_first)

    def mismatch(self, other: Geometry) -> str | None:
        """What keeps another grid from being this one, in words, or None."""
        if self.shape_dhw != other.shape_dhw:
            return f"shapes {self.shape_dhw} and {other.shape_dhw} (D, H, W) differ"
        apart = float(np.abs(self.corners_mm - other.corners_mm).max())
        if apart > MISPLACED * min(self.spacing_mm):
            return f"affines differ: corners lie up to {apart:.3g} mm apart"
        return None


def turn_axes(array: np.ndarray) -> np.ndarray:
    """(..., D, H, W) to a contiguous (..., W, H, D), as :meth:`Geometry.turned` turns a grid."""
    return np.ascontiguousarray(np.swapaxes(array, -1, -3))


def is_volume(path: Path) -> bool:
    """Whether the name is that of an image file this module reads (hidden files are not)."""
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """File name without directory and image suffix: ``a/case_1.nii.gz`` -> ``case_1``."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def read_volume(paths: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
    """Read one scan.

    Args:
        paths: one file of 3 or 4 dimensions (the fourth are channels), a DICOM folder, or one
            3-dimensional file a channel, all on one grid.

    Returns:
        image_cdhw, float32, contiguous, and its geometry.

    Raises:
        VolumeError: naming the file, for anything unreadable, of another dimension, or on two grids.
    """
    if not paths:
        raise VolumeError("a scan needs at least one file")
    if len(paths) == 1:
        return _read(Path(paths[0]), np.float32)
    first, geometry = _read(Path(paths[0]), np.float32)
    image = np.empty((len(paths), *first.shape[1:]), np.float32)
    for index, path in enumerate(map(Path, paths)):
        channel, other = (first, geometry) if index == 0 else _read(path, np.float32)
        if len(channel) != 1:
            raise VolumeError(f"{path} holds {len(channel)} channels; a scan of several files has one in each")
        if fault := geometry.mismatch(other):
            raise VolumeError(f"{paths[0]} and {path} are channels of one scan, but their {fault}; resample one")
        image[index] = channel[0]
    return image, geometry


def read_label(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map: uint8, (1, D, H, W). Raises VolumeError for values that are not whole, or not 0 to 255."""
    path = Path(path)
    values, geometry = _read(path, None)
    if len(values) != 1:
        raise VolumeError(f"{path} holds {len(values)} channels; a label map has one")
    if values.dtype == np.uint8:
        return values, geometry
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # also catches NaN
        raise VolumeError(f"{path}: label values reach from {low} to {high}; they must be 0 to 255")
    label = values.astype(np.uint8)
    if (odd := values != label).any():
        raise VolumeError(f"{path}: label value {values[odd][0]} is not a whole number; was it resampled as an image?")
    return label, geometry


def read_geometry(path: Path) -> Geometry:
    """The grid of a file, from its header where the format allows it. Raises VolumeError."""
    path = Path(path)
    if path.name.endswith(NIFTI_SUFFIXES):
        return _nifti_geometry(path, _open_nifti(path))
    return _read(path, None)[1]


def write_volume(path: Path, array_dhw: np.ndarray, geometry: Geometry) -> None:
    """Write (D, H, W), or (C, D, H, W) as a 4D file, on a scan's grid; whole or not at all.

    Raises:
        VolumeError: for a suffix that is not one of ``SUFFIXES`` or an array of another shape.
    """
    path = Path(path)
    if not is_volume(path):
        raise VolumeError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")
    if array_dhw.shape[-3:] != geometry.shape_dhw or array_dhw.ndim not in (3, 4):
        raise VolumeError(f"{path}: array {array_dhw.shape} does not fit the scan's grid {geometry.shape_dhw}")
    temporary = path.with_name(f".writing-{path.name}")  # hidden: what a killed run leaves is no image
    array_dhw = turn_axes(array_dhw) if geometry.depth_first else array_dhw
    try:
        if path.name.endswith(NIFTI_SUFFIXES):
            image = nibabel.Nifti1Image(array_dhw.T, geometry.affine_array)
            image.header.set_xyzt_units("mm")
            image.set_sform(geometry.affine_array, code=1)
            image.set_qform(geometry.affine_array, code=1)
            nibabel.save(image, temporary)
        else:
            _write_itk(temporary, array_dhw, geometry)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, dtype: type | None) -> tuple[np.ndarray, Geometry]:
    """Array (C, D, H, W), as ``dtype`` or as stored, and geometry."""
    if not path.exists():
        raise VolumeError(f"{path} does not exist")
    if path.name.endswith(NIFTI_SUFFIXES):
        return _read_nifti(path, dtype)
    if path.is_dir() or path.name.endswith(ITK_SUFFIXES):
        return _read_itk(path, dtype)
    raise VolumeError(f"{path}: not an image file (known: {', '.join(SUFFIXES)} and DICOM folders)")


def _open_nifti(path: Path) -> Any:
    try:
        return nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, OSError, EOFError) as error:
        raise VolumeError(f"{path} is not a NIfTI file, or a damaged one ({error}); get it anew") from error


def _nifti_geometry(path: Path, image: Any) -> Geometry:
    shape = (*image.shape, 1, 1)[:3]
    spacing = (*image.header.get_zooms(), 1.0, 1.0)[:3]
    if not all(np.isfinite(length) and length > 0 for length in spacing):
        raise VolumeError(f"{path}: voxel size {tuple(map(float, spacing))} is not positive; repair its header")
    if not np.isfinite(image.affine).all():
        raise VolumeError(f"{path}: its affine is not finite; repair its header")
    return Geometry.of(shape[::-1], spacing[::-1], image.affine)


def _read_nifti(path: Path, dtype: type | None) -> tuple[np.ndarray, Geometry]:
    image = _open_nifti(path)
    geometry = _nifti_geometry(path, image)
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
    channels_first = (values if values.ndim == 4 else values[..., None]).T
    return np.ascontiguousarray(channels_first, dtype=dtype), geometry


def _read_itk(path: Path, dtype: type | None) -> tuple[np.ndarray, Geometry]:
    import SimpleITK  # takes half a second to import, and NIfTI does without

    try:
        image = SimpleITK.ReadImage(_dicom_files(path) if path.is_dir() else str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise VolumeError(f"{path} is damaged or not an image ({reason}); get it anew") from error
    values = SimpleITK.GetArrayFromImage(image)
    if image.GetDimension() != 3:
        raise VolumeError(f"{path} has {image.GetDimension()} dimensions; scans have 3")
    values = values[None] if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(values, -1, 0)
    spacing = image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(spacing)
    affine[:3, 3] = image.GetOrigin()
    geometry = Geometry.of(values.shape[1:], spacing[::-1], LPS_TO_RAS @ affine)
    return np.ascontiguousarray(values, dtype=dtype), geometry


def _dicom_files(folder: Path) -> tuple[str, ...]:
    import SimpleITK

    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = f"{len(series)} DICOM series" if series else "no DICOM series"
        raise VolumeError(f"{folder} holds {found}; a scan's folder has exactly one")
    files: tuple[str, ...] = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    return files


def _write_itk(path: Path, array_dhw: np.ndarray, geometry: Geometry) -> None:
    import SimpleITK

    many = array_dhw.ndim == 4
    values = np.moveaxis(array_dhw, 0, -1) if many else array_dhw
    image: SimpleITK.Image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values), isVector=many)
    affine = LPS_TO_RAS @ geometry.affine_array
    spacing = np.array(geometry.spacing_mm[::-1])
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=True)
