"""MetaImage and NRRD: read by their own modules, written through SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cases.volumes.format import Format
from cases.volumes.geometry import Geometry
from cases.volumes.header import LPS_TO_RAS
from cases.volumes.metaimage import read_metaimage
from cases.volumes.nrrd import read_nrrd


class Itk(Format):
    """Files of ITK's own formats, whose LPS directions become the RAS affine of NIfTI; components are channels."""

    suffixes = (".mha", ".mhd", ".nrrd", ".nhdr")

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See :class:`Format`."""
        return read_nrrd(path) if path.suffix in (".nrrd", ".nhdr") else read_metaimage(path)

    def write(self, path: Path, array: np.ndarray, geometry: Geometry) -> None:
        """See :class:`Format`."""
        import SimpleITK  # takes half a second to import, and reading does without

        many = array.ndim == 4
        values = np.moveaxis(array, 0, -1) if many else array
        image: SimpleITK.Image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values), isVector=many)
        affine = LPS_TO_RAS @ geometry.affine_array
        spacing = np.array(geometry.spacing_mm[::-1])
        image.SetSpacing(spacing.tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path), useCompression=True)
