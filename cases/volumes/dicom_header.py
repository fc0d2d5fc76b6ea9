"""What a DICOM file says before its pixels (PS3.5, chapter 7), read without a library that broken files crash."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path

from cases.volumes.payload import damage_named

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXELS, FRAMES = 0x7FE00010, 0x52009230  # PixelData, PerFrameFunctionalGroupsSequence
GROUPS = (FRAMES, 0x52009229, 0x00209113, 0x00209116, 0x00289110)  # sequences to look into where no VR tells them
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
SYNTAX = 0x00020010
IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
PLAIN = (IMPLICIT, BIG, "1.2.840.10008.1.2.1")  # transfer syntaxes without compression
DEEPEST = 16  # sequences within sequences
LONGEST = 1 << 16  # bytes of a value that is kept


@dataclass
class DicomHeader:
    """The elements of one file.

    Attributes:
        path: of it.
        values: of the file's own elements, by tag.
        nested: the first of each tag within functional groups, which frames share.
        positions: ImagePositionPatient of each frame of a multi-frame file.
        pixels: bytes of PixelData, UNDEFINED where they are compressed, None without.
        big: values are big-endian.
    """

    path: Path
    values: dict[int, bytes] = field(default_factory=dict)
    nested: dict[int, bytes] = field(default_factory=dict)
    positions: list[bytes] = field(default_factory=list)
    pixels: int | None = None
    big: bool = False

    def text(self, tag: int) -> str:
        """Empty where it is missing."""
        value = self.values.get(tag, self.nested.get(tag, b""))
        return value.decode("ascii", errors="replace").strip(" \0")

    def numbers(self, tag: int, count: int) -> tuple[float, ...] | None:
        """So many finite decimals, None where it is missing or something else."""
        return decimals(self.text(tag), count)

    def short(self, tag: int, default: int = 0) -> int:
        """An unsigned number of two bytes."""
        value = self.values.get(tag, b"")
        return struct.unpack(">H" if self.big else "<H", value)[0] if len(value) == 2 else default

    @property
    def compressed(self) -> bool:
        return self.text(SYNTAX) not in ("", *PLAIN)


def decimals(text: str, count: int) -> tuple[float, ...] | None:
    """DICOM's numbers in text, between backslashes."""
    try:
        found = tuple(float(word) for word in text.split("\\"))
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def read_dicom_header(path: Path) -> DicomHeader | None:
    """The header of a file, None of one that is no DICOM file.

    Raises:
        VolumeError: for one that is broken.
    """
    with damage_named(path), path.open("rb") as stream:
        start = stream.read(132)
        if start[128:] == b"DICM":
            place = 132
        elif start[:2] in (b"\x08\0", b"\x02\0") and start[3:4] == b"\0":
            place = 0  # files without the preamble begin with group 2 or 8
        else:
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Walk(data, DicomHeader(path)).file(place)


class _Walk:
    """One pass over a file's elements."""

    def __init__(self, data: mmap.mmap, header: DicomHeader) -> None:
        self._data, self._end, self._header = data, len(data), header

    def file(self, place: int) -> DicomHeader:
        """Group 2, always explicit, and then the rest in the syntax that it names."""
        header = self._header
        while self._data[place : place + 2] == b"\x02\0":
            tag, _, length, place = self._element(place, self._end, "<", True)
            header.values[tag] = self._data[place : place + min(length, LONGEST)]
            place += length
        syntax = header.text(SYNTAX)
        if syntax == DEFLATED:
            raise ValueError("deflated as a whole, which is not read; store it uncompressed")
        header.big = syntax == BIG
        order = ">" if header.big else "<"
        explicit = syntax != IMPLICIT if syntax else self._data[place + 4 : place + 6].isalpha()
        self._elements(place, self._end, order, explicit, ())
        return header

    def _element(self, place: int, end: int, order: str, explicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and place of the value of the element at ``place``."""
        group, element = struct.unpack_from(order + "HH", self._data, place)
        tag, vr = group << 16 | element, b""
        if explicit and group != 0xFFFE:
            vr = self._data[place + 4 : place + 6]
            if not vr.isalpha():
                raise ValueError(f"element {tag:08x} has no type")
            form, at, head = (order + "I", 8, 12) if vr in LONG else (order + "H", 6, 8)
        else:
            form, at, head = order + "I", 4, 8
        length = struct.unpack_from(form, self._data, place + at)[0]
        value = place + head
        if length != UNDEFINED and value + length > end:
            raise ValueError(f"element {tag:08x} claims {length} bytes, {max(end - value, 0)} are left")
        return tag, vr, length, value

    def _elements(self, place: int, end: int, order: str, explicit: bool, inside: tuple[int, ...]) -> int:
        """Elements up to ``end``, or to the mark of an item's end; returns the place behind."""
        if len(inside) > DEEPEST:
            raise ValueError("sequences within sequences without end")
        while place < end:
            tag, vr, length, value = self._element(place, end, order, explicit)
            if tag == ITEM_END and inside:
                return value
            if tag == PIXELS and not inside:
                self._header.pixels = length
                if length == UNDEFINED:
                    self._fragments(value, order)
                return end
            if length == UNDEFINED or vr == b"SQ" or (not vr and tag in GROUPS):
                until = end if length == UNDEFINED else value + length
                place = self._items(value, until, order, explicit and vr != b"UN", (*inside, tag))
            else:
                if length <= LONGEST:
                    self._keep(tag, self._data[value : value + length], inside)
                place = value + length
        return place

    def _items(self, place: int, end: int, order: str, explicit: bool, inside: tuple[int, ...]) -> int:
        while place < end:
            tag, _, length, value = self._element(place, end, order, explicit)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise ValueError(f"element {tag:08x} where an item of a sequence begins")
            until = end if length == UNDEFINED else value + length
            place = self._elements(value, until, order, explicit, inside)
        return place

    def _fragments(self, place: int, order: str) -> None:
        """Compressed pixels, up to the mark of their end."""
        while True:
            tag, _, length, value = self._element(place, self._end, order, False)
            if tag == SEQUENCE_END:
                return
            if tag != ITEM or length == UNDEFINED:
                raise ValueError("its compressed pixels are broken")
            place = value + length

    def _keep(self, tag: int, value: bytes, inside: tuple[int, ...]) -> None:
        if not inside:
            self._header.values[tag] = value
        elif inside[0] in GROUPS:
            self._header.nested.setdefault(tag, value)
            if tag == 0x00200032 and inside[0] == FRAMES:
                self._header.positions.append(value)
