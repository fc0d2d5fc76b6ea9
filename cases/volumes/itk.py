"""MetaImage and NRRD, through SimpleITK, whose LPS directions are turned into the RAS affine of NIfTI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cases.volumes.format import Format, VolumeError
from cases.volumes.geometry import Geometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Itk(Format):
    """Files that SimpleITK reads and writes; components of a voxel are channels."""

    suffixes = (".mha", ".mhd", ".nrrd", ".nhdr")

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See :class:`Format`."""
        return read_itk(path, str(path))

    def write(self, path: Path, array: np.ndarray, geometry: Geometry) -> None:
        """See :class:`Format`."""
        import SimpleITK

        many = array.ndim == 4
        values = np.moveaxis(array, 0, -1) if many else array
        image: SimpleITK.Image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values), isVector=many)
        affine = LPS_TO_RAS @ geometry.affine_array
        spacing = np.array(geometry.spacing_mm[::-1])
        image.SetSpacing(spacing.tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path), useCompression=True)


def read_itk(path: Path, files: str | Sequence[str]) -> tuple[np.ndarray, Geometry]:
    """The scan of a file, or of the slices ``files`` of the folder ``path``; see :class:`Format`."""
    import SimpleITK  # takes half a second to import, and NIfTI does without

    try:
        image = SimpleITK.ReadImage(files)
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
    return values, Geometry.of(values.shape[1:], spacing[::-1], LPS_TO_RAS @ affine)
