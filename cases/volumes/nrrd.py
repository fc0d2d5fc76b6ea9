"""NRRD (https://teem.sourceforge.net/nrrd/format.html), without ITK, which crashes on broken headers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from cases.volumes.format import VolumeError
from cases.volumes.geometry import Geometry
from cases.volumes.header import MOST_LINES, Fields, geometry_of_lps, header_line
from cases.volumes.payload import Inflated, Unpacked, damage_named, inflated_voxels, stored_voxels, written_voxels

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
ENCODINGS = {"raw": "raw", "txt": "text", "text": "text", "ascii": "text", "gz": "gzip", "gzip": "gzip"}
ENCODINGS |= {"bz2": "bzip2", "bzip2": "bzip2"}
ENDIANS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
TO_LPS = {  # signs of x, y, z
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
    **dict.fromkeys(("scanner-xyz", "3d-right-handed"), (1.0, 1.0, 1.0)),  # taken as LPS, as ITK does
}
OTHER_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip", "centerings": "centers"}
OTHER_NAMES |= {"axismins": "axis mins", "axismaxs": "axis maxs"}
PLACES = ("domain", "space", "???", "none")  # kinds of axes along which voxels lie; time would be a fourth


def read_nrrd(path: Path) -> tuple[np.ndarray, Geometry]:
    """The array (C, D, H, W), which may be a memory map, and its grid; see :class:`cases.volumes.format.Format`."""
    with damage_named(path), path.open("rb") as stream:
        fields = _fields(path, stream)
        dimension = fields.numbers("dimension", 1, int)[0]
        if not 1 <= dimension <= 16:
            fields.fail("dimension", "1 to 16")
        sizes = fields.sides("sizes", dimension)
        spread = _channel_axes(fields, dimension)
        if dimension - len(spread) != 3 or len(spread) > 1:
            raise VolumeError(
                f"{path} has {dimension} dimensions, {len(spread)} of them channels; scans have 3 and at most 1"
            )
        places = [axis for axis in range(dimension) if axis not in spread]
        geometry = _geometry(fields, dimension, [sizes[axis] for axis in places], places)
        values = _voxels(fields, stream, sizes[::-1])
    if not spread:
        return values[None], geometry
    return np.moveaxis(values, dimension - 1 - spread[0], 0), geometry


def _fields(path: Path, stream: BinaryIO) -> Fields:
    """Up to the empty line, or to the end of a header whose voxels lie elsewhere."""
    if not re.fullmatch(r"NRRD000[1-5]", header_line(stream) or ""):
        raise ValueError("its first line is not NRRD0001 to NRRD0005")
    values: dict[str, str] = {}
    for _ in range(MOST_LINES):
        line = header_line(stream)
        if not line:
            return Fields(path, values)
        key, colon, value = line.partition(": ")
        if line.startswith("#") or ":=" in line.partition(": ")[0]:
            continue
        key = OTHER_NAMES.get(key.lower(), key.lower())
        if not colon:
            raise ValueError(f"{line[:80]!r} is no line of a header")
        if key in values:
            raise VolumeError(f"{path} is damaged: its header has two {key[:80]}; get it anew")
        values[key] = value.strip()
    raise ValueError(f"a header of more than {MOST_LINES} lines")


def _channel_axes(fields: Fields, dimension: int) -> list[int]:
    """Those along which a voxel's components lie."""
    kinds = fields.text("kinds", " ".join(["???"] * dimension)).lower().split()
    directions = _directions(fields, dimension)
    if len(kinds) != dimension:
        fields.fail("kinds", f"{dimension} kinds")
    if "complex" in kinds:
        fields.fail("kinds", "plain numbers")
    outside = [kind not in PLACES and kind != "time" for kind in kinds]
    if directions:
        outside = [out or word == "none" for out, word in zip(outside, directions, strict=True)]
    return [axis for axis in range(dimension) if outside[axis]]


def _directions(fields: Fields, dimension: int) -> list[str]:
    """``space directions``, a word an axis; empty where there are none."""
    text = re.sub(r"\s*([(,])\s*|\s+(?=\))", lambda found: found[1] or "", fields.text("space directions", ""))
    words = text.replace("(", " (").split()
    return words if len(words) in (0, dimension) else fields.fail("space directions", f"{dimension} directions")


def _geometry(fields: Fields, dimension: int, shape_xyz: list[int], places: list[int]) -> Geometry:
    """Directions are the columns of an affine in the header's space, whose signs become LPS."""
    shape = shape_xyz[::-1]
    words = _directions(fields, dimension)
    if not words:
        return _geometry_without_space(fields, dimension, shape, places)
    signs = np.array(TO_LPS[fields.choice("space", TO_LPS, "lps")])
    if fields.numbers("space dimension", 1, int, [3]) != [3]:
        fields.fail("space dimension", "3")
    columns = np.array([fields.vector("space directions", words[axis], 3) for axis in places]).T
    lengths = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        fields.fail("space directions", "directions with a length")
    origin = np.array(fields.vector("space origin", fields.text("space origin", "(0,0,0)").replace(" ", ""), 3))
    return geometry_of_lps(shape, lengths.tolist(), signs[:, None] * columns / lengths, signs * origin)


def _geometry_without_space(fields: Fields, dimension: int, shape: list[int], places: list[int]) -> Geometry:
    """Axes as they are; the first voxel's centre lies half a voxel behind its edge, unless axes count from centres."""
    for key in ("space", "space dimension", "space origin", "axis maxs"):
        if key in fields:
            fields.fail(key, "missing, or with space directions")
    spacing, edges, centres = (
        fields.each(key, dimension, default, places)
        for key, default in (("spacings", "1"), ("axis mins", "nan"), ("centers", "???"))
    )
    lengths = [fields.number("spacings", word) for word in spacing]
    origin = [
        0.0 if edge.lower() == "nan" else fields.number("axis mins", edge) + (centre.lower() != "node") * length / 2
        for edge, centre, length in zip(edges, centres, lengths, strict=True)
    ]
    return geometry_of_lps(shape, lengths, np.eye(3), origin)


def _voxels(fields: Fields, stream: BinaryIO, shape: list[int]) -> np.ndarray:
    """From behind the header, or from the file beside it."""
    dtype = np.dtype(TYPES[fields.choice("type", TYPES)])
    encoding = ENCODINGS[fields.choice("encoding", ENCODINGS)]
    if dtype.itemsize > 1 and encoding != "text":
        dtype = dtype.newbyteorder(ENDIANS[fields.choice("endian", ENDIANS)])
    lines, skipped = (fields.numbers(key, 1, int, [0])[0] for key in ("line skip", "byte skip"))
    if lines or skipped < -1 or (skipped and encoding != "raw"):
        fields.fail("line skip" if lines else "byte skip", "0, or -1, or the bytes before raw voxels")
    if "data file" not in fields:
        return _payload(fields.path, stream, shape, dtype, encoding, skipped)
    file = fields.file_beside("data file")
    with damage_named(file), file.open("rb") as beside:
        return _payload(file, beside, shape, dtype, encoding, skipped)


def _payload(
    path: Path, stream: BinaryIO, shape: list[int], dtype: np.dtype, encoding: str, skipped: int
) -> np.ndarray:
    if encoding == "text":
        return written_voxels(path, stream, shape, dtype)
    if encoding == "raw":
        return stored_voxels(path, None if skipped < 0 else stream.tell() + skipped, shape, dtype)
    return inflated_voxels(path, Inflated(stream) if encoding == "gzip" else Unpacked(stream), shape, dtype)
