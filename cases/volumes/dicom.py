"""A folder with the slices of one DICOM series: checked by their headers, their pixels through SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cases.volumes.dicom_header import UNDEFINED, DicomHeader, decimals, read_dicom_header
from cases.volumes.format import Format, VolumeError
from cases.volumes.geometry import Geometry
from cases.volumes.header import geometry_of_lps
from cases.volumes.payload import check_memory

SLICES = (".dcm", ".ima")
UNEVEN = 0.2  # of the spacing, by which a slice may lie off its place in an even series
ALIKE = 1e-3  # what directions, and spacings in mm, of two slices may differ by
SERIES, INSTANCE, POSITION, ORIENTATION = 0x0020000E, 0x00200013, 0x00200032, 0x00200037
ROWS, COLUMNS, FRAMES, SAMPLES, BITS = 0x00280010, 0x00280011, 0x00280008, 0x00280002, 0x00280100
PIXEL_SPACING, SLOPE, INTERCEPT = 0x00280030, 0x00281053, 0x00281052
THICKNESS, BETWEEN, MODALITY, KIND = 0x00180050, 0x00180088, 0x00080060, 0x00080016
SAME = {ROWS: "rows", COLUMNS: "columns", SAMPLES: "samples", BITS: "bits", 0x00280103: "sign"}


class Dicom(Format):
    """Folders; those that are listed hold ``.dcm`` or ``.ima`` files, slices without a suffix are read too."""

    def owns(self, path: Path) -> bool:
        """Whether it is a folder with files that are named as slices."""
        return path.is_dir() and any(file.suffix.lower() in SLICES for file in path.iterdir())

    def read(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See :class:`Format`."""
        headers = _slices(path)
        series = {header.text(SERIES) for header in headers}
        if len(series) != 1:
            found = f"{len(series)} DICOM series" if series else "no DICOM series"
            raise VolumeError(f"{path} holds {found}; a scan's folder has exactly one")
        for header in headers:
            _check_pixels(header)
        _check_alike(path, headers)
        positions, headers = _in_order(path, headers)
        pixels = _pixels(path, headers)
        if len(positions) != len(pixels[0]):
            raise VolumeError(f"{path} holds {len(pixels[0])} slices, and places for {len(positions)}")
        return pixels, _geometry(path, headers[0], positions, pixels.shape[1:])


def _slices(path: Path) -> list[DicomHeader]:
    """Headers of the images in a folder; a file that is named as they are and is none is no slice lost in silence."""
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    found = {file: read_dicom_header(file) for file in files if file.name != "DICOMDIR"}
    images = [header for header in found.values() if header is not None and _is_image(header)]
    suffixes = {header.path.suffix.lower() for header in images} | set(SLICES)
    for file, header in found.items():
        if header is None and file.suffix.lower() in suffixes:
            what = "is empty" if not file.stat().st_size else "is no DICOM file, or a damaged one"
            raise VolumeError(f"{file} is named as a slice, but {what}; get it anew, or take it out of the folder")
    return images


def _is_image(header: DicomHeader) -> bool:
    return header.pixels is not None or header.short(ROWS) > 0


def _check_pixels(header: DicomHeader) -> None:
    """That a file holds as many bytes of pixels as it says."""
    rows, columns, samples, bits = (header.short(tag, 1) for tag in (ROWS, COLUMNS, SAMPLES, BITS))
    frames = _frames(header)
    if bits not in (1, 8, 12, 16, 32, 64) or samples not in (1, 3, 4) or 0 in (rows, columns) or frames < 1:
        raise VolumeError(
            f"{header.path} is damaged: {rows} rows, {columns} columns, {frames} frames, {samples} samples of {bits} "
            "bits; get it anew"
        )
    claimed = -(-rows * columns * samples * bits * frames // 8)
    check_memory(header.path, 8 * rows * columns * samples * frames)
    if header.compressed != (header.pixels == UNDEFINED):
        raise VolumeError(f"{header.path} is damaged: its pixels are not stored as its transfer syntax says")
    if header.pixels is None or not (header.compressed or 0 <= header.pixels - claimed < max(columns * bits // 8, 2)):
        raise VolumeError(
            f"{header.path} is damaged or cut short: its header claims {claimed} bytes of pixels, it holds "
            f"{header.pixels or 0}; get it anew"
        )


def _frames(header: DicomHeader) -> int:
    text = header.text(FRAMES)
    return (int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0) if text else 1


def _check_alike(path: Path, headers: Sequence[DicomHeader]) -> None:
    """That slices differ in nothing but their place."""
    first = headers[0]
    for header in headers[1:]:
        for tag, name in SAME.items():
            if header.short(tag, 1) != first.short(tag, 1):
                _differ(first, header, name, *(str(one.short(tag, 1)) for one in (first, header)))
        for tag, count, name in ((ORIENTATION, 6, "orientation"), (PIXEL_SPACING, 2, "pixel spacing")):
            mine, other = first.numbers(tag, count), header.numbers(tag, count)
            if (mine is None) != (other is None) or (mine and not np.allclose(mine, other or (), rtol=0, atol=ALIKE)):
                _differ(first, header, name, first.text(tag), header.text(tag))
        if not _scaled_alike(first, header) and first.text(MODALITY) != "PT":  # PET scales each slice of its own
            texts = [f"{one.text(SLOPE) or 1} and {one.text(INTERCEPT) or 0}" for one in (first, header)]
            _differ(first, header, "rescale slope and intercept", *texts)


def _scaled_alike(first: DicomHeader, header: DicomHeader) -> bool:
    return all(first.text(tag) == header.text(tag) for tag in (SLOPE, INTERCEPT))


def _differ(first: DicomHeader, other: DicomHeader, name: str, mine: str, others: str) -> None:
    raise VolumeError(
        f"{other.path} does not belong to {first.path.name}: its {name} is {others or 'missing'}, not "
        f"{mine or 'missing'}; a scan's folder has one series of equal slices"
    )


def _in_order(path: Path, headers: list[DicomHeader]) -> tuple[np.ndarray, list[DicomHeader]]:
    """Places (n, 3) of the first voxels and the files, along the slices' normal.

    Raises:
        VolumeError: for slices that are missing, there twice, or unevenly spaced.
    """
    if len(headers) > 1 and any(_frames(header) > 1 for header in headers):
        raise VolumeError(f"{path} holds {len(headers)} files of several frames; a scan's folder has one of them")
    names = [header.path.name for header in headers]
    if _frames(headers[0]) > 1:
        names = [f"frame {index + 1}" for index in range(_frames(headers[0]))]
        places = [decimals(value.decode("ascii", "replace").strip(" \0"), 3) for value in headers[0].positions]
        if len(places) != len(names):
            raise VolumeError(f"{headers[0].path} tells the places of {len(places)} of its {len(names)} frames")
    else:
        places = [header.numbers(POSITION, 3) for header in headers]
        if len(headers) == 1 and places == [None]:
            places = [(0.0, 0.0, 0.0)]  # a single image that lies nowhere
    for name, place in zip(names, places, strict=True):
        if place is None:
            raise VolumeError(f"{path}: {name} has no ImagePositionPatient of three numbers; get it anew")
    positions = np.array(places, np.float64)
    along = positions @ np.cross(*_axes(headers[0]))
    order = np.argsort(along, kind="stable")
    _check_even(path, along[order], [names[index] for index in order])
    if len(headers) == 1:
        if (np.diff(order) != 1).any() and (np.diff(order) != -1).any():
            raise VolumeError(f"{path}: the frames of {headers[0].path.name} are not in the order of their places")
        return positions, headers
    _check_numbers(path, headers)
    return positions[order], [headers[index] for index in order]


def _axes(header: DicomHeader) -> np.ndarray:
    """Directions of a row and of a column, (2, 3)."""
    axes = np.array(header.numbers(ORIENTATION, 6) or (1, 0, 0, 0, 1, 0)).reshape(2, 3)
    if (ORIENTATION in header.values and header.numbers(ORIENTATION, 6) is None) or not _orthonormal(axes):
        raise VolumeError(
            f"{header.path}: its orientation {header.text(ORIENTATION)!r} is not two perpendicular directions"
        )
    return axes


def _orthonormal(axes: np.ndarray) -> bool:
    return np.allclose(axes @ axes.T, np.eye(2), rtol=0, atol=0.01)


def _check_even(path: Path, along: np.ndarray, names: Sequence[str]) -> None:
    """That slices at ``along`` mm on their normal, in order, are distinct and evenly spaced."""
    if len(along) < 2:
        return
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if along[-1] - along[0] < ALIKE:
        raise VolumeError(f"{path}: all {len(along)} slices lie at {along[0]:.1f} mm; a scan's slices lie side by side")
    closest = int(gaps.argmin())
    if gaps[closest] < max(ALIKE, 0.01 * usual):
        both = f"{names[closest]} and {names[closest + 1]}"
        raise VolumeError(f"{path}: {both} lie both at {along[closest]:.1f} mm; take one out, or split the series")
    even = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - even).max() <= UNEVEN * (even[1] - even[0]):
        return
    widest = int(gaps.argmax())
    missing = round(gaps[widest] / usual) - 1
    what = f"{missing} slice{'s' * (missing > 1)} missing" if missing > 0 else f"{gaps[widest]:.3g} mm, not {usual:.3g}"
    raise VolumeError(
        f"{path} is incomplete or uneven: between {along[widest]:.1f} mm and {along[widest + 1]:.1f} mm: {what} "
        f"({names[widest]}, {names[widest + 1]}); get the whole series"
    )


def _check_numbers(path: Path, headers: Sequence[DicomHeader]) -> None:
    """That InstanceNumber, where every slice has its own, leaves none out."""
    found = [header.numbers(INSTANCE, 1) for header in headers]
    numbers = np.unique([number[0] for number in found if number is not None])
    if len(numbers) < len(headers) or len(numbers) < 2:
        return
    gaps = np.diff(numbers)
    if gaps.max() > gaps.min():
        before, behind = numbers[gaps.argmax()], numbers[gaps.argmax() + 1]
        raise VolumeError(
            f"{path} is incomplete: between its slices with InstanceNumber {before:g} and {behind:g} there are none; "
            "get the whole series"
        )


def _pixels(path: Path, headers: Sequence[DicomHeader]) -> np.ndarray:
    """(C, D, H, W), rescaled."""
    import SimpleITK  # takes half a second to import

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(header.path) for header in headers])
    if not all(_scaled_alike(headers[0], header) for header in headers):
        reader.SetOutputPixelType(SimpleITK.sitkFloat64)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise VolumeError(f"{path} is damaged or not an image ({reason}); get it anew") from error
    if image.GetDimension() != 3:
        raise VolumeError(f"{path} has {image.GetDimension()} dimensions; scans have 3")
    values = SimpleITK.GetArrayFromImage(image)
    return values[None] if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(values, -1, 0)


def _geometry(path: Path, header: DicomHeader, positions: np.ndarray, shape: Sequence[int]) -> Geometry:
    """Slices follow the line from the first to the last, which a tilted gantry turns from their normal."""
    row, column = _axes(header)
    if len(positions) > 1:
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
    else:
        thick = header.numbers(BETWEEN, 1) or header.numbers(THICKNESS, 1) or (1.0,)
        step = np.cross(row, column) * thick[0]
    down, across = header.numbers(PIXEL_SPACING, 2) or (1.0, 1.0)
    length = float(np.linalg.norm(step))
    axes = np.array([row, column, step / length if length else step]).T
    return geometry_of_lps(shape, [across, down, length], axes, positions[0])
