"""MetaImage (https://itk.org/Wiki/MetaIO/Documentation), without ITK, which crashes on broken headers."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from cases.volumes.format import VolumeError
from cases.volumes.geometry import Geometry
from cases.volumes.header import MOST_LINES, Fields, geometry_of_lps, header_line
from cases.volumes.payload import (
    ZLIB_OR_GZIP,
    Inflated,
    damage_named,
    inflated_voxels,
    stored_voxels,
    written_voxels,
)

TYPES = {
    "met_char": "i1",
    "met_uchar": "u1",
    "met_short": "i2",
    "met_ushort": "u2",
    "met_int": "i4",
    "met_uint": "u4",
    "met_long": "i4",
    "met_ulong": "u4",
    "met_long_long": "i8",
    "met_ulong_long": "u8",
    "met_float": "f4",
    "met_double": "f8",
}
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def read_metaimage(path: Path) -> tuple[np.ndarray, Geometry]:
    """The array (C, D, H, W), which may be a memory map, and its grid; see :class:`cases.volumes.format.Format`."""
    with damage_named(path), path.open("rb") as stream:
        fields = _fields(path, stream)
        if (dimensions := fields.numbers("NDims", 1, int)[0]) != 3:
            raise VolumeError(f"{path} has {dimensions} dimensions; scans have 3")
        if fields.text("ObjectType", "Image") != "Image":
            fields.fail("ObjectType", "Image")
        shape = fields.sides("DimSize", 3)[::-1]
        channels = fields.numbers("ElementNumberOfChannels", 1, int, [1])[0]
        if channels < 1:
            fields.fail("ElementNumberOfChannels", "a number from 1 on")
        geometry = _geometry(fields, shape)
        values = _voxels(fields, stream, [*shape, channels])
    return np.moveaxis(values, -1, 0), geometry


def _fields(path: Path, stream: BinaryIO) -> Fields:
    """Up to ElementDataFile, which is the last."""
    values: dict[str, str] = {}
    for _ in range(MOST_LINES):
        if (line := header_line(stream)) is None:
            break
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals and key:
            raise ValueError(f"{line[:80]!r} is no line of a header")
        if key in values:
            raise VolumeError(f"{path} is damaged: its header has two {key[:80]}; get it anew")
        values[key] = value
        if key == "ElementDataFile":
            return Fields(path, values)
    raise ValueError("its header has no ElementDataFile")


def _geometry(fields: Fields, shape: list[int]) -> Geometry:
    sized = fields.numbers("ElementSize", 3, float, [1.0] * 3)
    spacing = fields.numbers("ElementSpacing", 3, float, sized)
    matrix = fields.first("TransformMatrix", "Rotation", "Orientation")
    rows = fields.numbers(matrix, 9, float) if matrix else np.eye(3)
    place = fields.first("Offset", "Position", "Origin")
    origin = fields.numbers(place, 3, float) if place else [0.0] * 3
    return geometry_of_lps(shape, spacing, np.reshape(rows, (3, 3)).T, origin)


def _voxels(fields: Fields, stream: BinaryIO, shape: list[int]) -> np.ndarray:
    """(D, H, W, C), from behind the header or from the file beside it."""
    dtype = np.dtype(TYPES[fields.choice("ElementType", TYPES)])
    order = fields.first("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    if order and TRUTH[fields.choice(order, TRUTH)]:
        dtype = dtype.newbyteorder(">")
    binary = TRUTH[fields.choice("BinaryData", TRUTH, "True")]
    compressed = TRUTH[fields.choice("CompressedData", TRUTH, "False")]
    skipped = fields.numbers("HeaderSize", 1, int, [0])[0]
    local = fields.text("ElementDataFile").lower() == "local"
    if skipped < -1 or (skipped > 0 and (local or compressed or not binary)):
        fields.fail("HeaderSize", "0, or -1, or the bytes before plain voxels in a file of their own")
    if local:
        return _payload(fields.path, stream, shape, dtype, binary, compressed, skipped)
    file = fields.file_beside("ElementDataFile")
    with damage_named(file), file.open("rb") as beside:
        return _payload(file, beside, shape, dtype, binary, compressed, skipped)


def _payload(
    path: Path, stream: BinaryIO, shape: list[int], dtype: np.dtype, binary: bool, compressed: bool, skipped: int
) -> np.ndarray:
    if compressed:
        return inflated_voxels(path, Inflated(stream, ZLIB_OR_GZIP), shape, dtype)
    if not binary:
        return written_voxels(path, stream, shape, dtype)
    return stored_voxels(path, stream.tell() + skipped if skipped >= 0 else None, shape, dtype)
