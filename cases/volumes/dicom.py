"""A folder with the slices of one DICOM series, through SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cases.volumes.format import Format, VolumeError
from cases.volumes.geometry import Geometry
from cases.volumes.itk import read_itk

SLICES = (".dcm", ".ima")


class Dicom(Format):
    """Folders; those that are listed hold ``.dcm`` or ``.ima`` files, slices without a suffix are read too."""

    def owns(self, path: Path) -> bool:
        """Whether it is a folder with files that are named as slices."""
        return path.is_dir() and any(file.suffix.lower() in SLICES for file in path.iterdir())

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See :class:`Format`."""
        import SimpleITK

        series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
        if len(series) != 1:
            found = f"{len(series)} DICOM series" if series else "no DICOM series"
            raise VolumeError(f"{path} holds {found}; a scan's folder has exactly one")
        return read_itk(path, SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series[0]))
