"""Image files to (C, D, H, W) arrays with their geometry, and back; one file a format.

A new format is a file beside this one and a line in ``FORMATS``; a user's own is named by ``--formats``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from cases.files import whole_file
from cases.label_values import HIGHEST
from cases.registry import Registry, absolute, is_own
from cases.settings import Settings, setting
from cases.volumes.format import Format, VolumeError
from cases.volumes.geometry import Geometry, turn_axes

__all__ = [
    "FORMATS",
    "FormatSettings",
    "Geometry",
    "VolumeError",
    "case_files",
    "formats_in_use",
    "is_volume",
    "known_formats",
    "read_label",
    "read_volume",
    "stem",
    "turn_axes",
    "use_formats",
    "write_volume",
]

FORMATS: Registry[type[Format]] = Registry(
    "format",
    {  # asked in turn which of them a path belongs to
        "nifti": "cases.volumes.nifti:Nifti",
        "itk": "cases.volumes.itk:Itk",
        "dicom": "cases.volumes.dicom:Dicom",
    },
    needs=("suffixes", "owns", "read"),
)
_in_use: tuple[str, ...] = ()  # own formats of this process, as use_formats took them


@dataclass(frozen=True, kw_only=True)
class FormatSettings(Settings):
    """File formats of scans."""

    error: ClassVar[type[ValueError]] = VolumeError

    formats: tuple[str, ...] = setting(
        (),
        "own formats as module:object or file.py:object, asked before NIfTI, MetaImage, NRRD and DICOM",
        variants=FORMATS,
        kept=False,
    )


def use_formats(names: Sequence[str]) -> None:
    """Ask these own formats first from now on, in this process and in those that :mod:`runtime.parallel` starts.

    Raises:
        RegistryError: for one that cannot be used.
    """
    global _in_use
    wanted = tuple(absolute(name) for name in names)
    for name in wanted:
        FORMATS.make(name)
    _in_use = wanted


def formats_in_use() -> tuple[str, ...]:
    """The own formats, as :func:`use_formats` takes them."""
    return _in_use


def _formats() -> tuple[tuple[str, Format], ...]:
    return _made(_in_use)


@cache
def _made(own: tuple[str, ...]) -> tuple[tuple[str, Format], ...]:
    """Formats by name in the order in which they are asked."""
    names = dict.fromkeys((*own, *FORMATS))
    return tuple((name, FORMATS.make(name)) for name in names)


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for _, known in _formats() for suffix in known.suffixes)


def known_formats() -> str:
    """What can be read, in words."""
    return f"{', '.join(_suffixes())} and DICOM folders"


def is_volume(path: Path) -> bool:
    """Whether a path is, by its name, an image file, or a DICOM folder (hidden ones are not)."""
    return not path.name.startswith(".") and any(known.owns(path) for _, known in _formats())


def stem(path: Path) -> str:
    """File name without directory and image suffix: ``a/case_1.nii.gz`` -> ``case_1``."""
    for suffix in _suffixes():
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def case_files(folder: Path) -> dict[str, Path]:
    """The scans or label maps directly in a folder, by case: image and label of a case have the same :func:`stem`."""
    return {stem(path): path for path in sorted(folder.iterdir()) if is_volume(path)}


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
    """Read a label map: (1, D, H, W), uint8, or uint16 where a value is above 255.

    Raises:
        VolumeError: for values that are not whole, or not 0 to 65535.
    """
    path = Path(path)
    values, geometry = _read(path, None)
    if len(values) != 1:
        raise VolumeError(f"{path} holds {len(values)} channels; a label map has one")
    if values.dtype == np.uint8:
        return values, geometry
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= HIGHEST):  # also catches NaN
        raise VolumeError(f"{path}: label values reach from {low} to {high}; they must be 0 to {HIGHEST}")
    label = values.astype(np.uint8 if high <= 255 else np.uint16)
    if (odd := values != label).any():
        raise VolumeError(f"{path}: label value {values[odd][0]} is not a whole number; was it resampled as an image?")
    return label, geometry


def write_volume(path: Path, array_dhw: np.ndarray, geometry: Geometry) -> None:
    """Write (D, H, W), or (C, D, H, W) as a 4D file, on a scan's grid; whole or not at all.

    Raises:
        VolumeError: for a suffix that no format writes, or an array of another shape.
    """
    path = Path(path)
    writers = {suffix: known.write for _, known in _formats() if known.write for suffix in known.suffixes}
    write = next((writers[suffix] for suffix in writers if path.name.endswith(suffix)), None)
    if write is None or path.name.startswith("."):
        raise VolumeError(f"{path}: the name must end in one of {', '.join(writers)}")
    if array_dhw.shape[-3:] != geometry.shape_dhw or array_dhw.ndim not in (3, 4):
        raise VolumeError(f"{path}: array {array_dhw.shape} does not fit the scan's grid {geometry.shape_dhw}")
    with whole_file(path, keep_suffix=True) as temporary:  # hidden: what a killed run leaves is no image
        write(temporary, turn_axes(array_dhw) if geometry.depth_first else array_dhw, geometry)


def _read(path: Path, dtype: type | None) -> tuple[np.ndarray, Geometry]:
    """Array (C, D, H, W), contiguous, as ``dtype`` or as stored, and geometry."""
    if not path.exists():
        raise VolumeError(f"{path} does not exist")
    owner = next(((name, known) for name, known in _formats() if known.owns(path)), None)
    if owner is None and path.is_dir():
        owner = "dicom", FORMATS.make("dicom")  # slices whose names do not tell
    if owner is None:
        raise VolumeError(f"{path}: not an image file (known: {known_formats()})")
    name, known = owner
    array, geometry = _read_own(name, known, path) if is_own(name) else known.read(path)
    if fault := geometry.fault:
        raise VolumeError(f"{path}: {fault}; repair its header")
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(array, dtype=dtype), geometry
    except FloatingPointError as error:
        raise VolumeError(f"{path}: values reach beyond {np.finfo(np.float32).max:.2g}, float32's end") from error


def _read_own(name: str, known: Format, path: Path) -> tuple[np.ndarray, Geometry]:
    """By a user's own format, which may fail in any way and return anything."""
    try:
        array, geometry = known.read(path)
        shapes = array.shape[1:], tuple(geometry.shape_dhw)
    except VolumeError:
        raise
    except Exception as error:
        raise VolumeError(f"{path}: {name} cannot read it ({type(error).__name__}: {error})") from error
    if array.ndim != 4 or shapes[0] != shapes[1]:
        raise VolumeError(
            f"{path}: {name} read an array of shape {array.shape} for a grid of {shapes[1]}; it must be (C, D, H, W)"
        )
    return array, geometry
