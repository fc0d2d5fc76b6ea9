"""The voxels behind a header that is not believed: its claims are held against the file's bytes and the memory."""

from __future__ import annotations

import bz2
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cases.volumes.format import VolumeError

CHUNK = 1 << 20  # bytes that are read, or inflated, at a time
DEFLATE_RATIO = 1032  # no deflated byte makes more (RFC 1951: 258 bytes of 2 bits)
PADDING = 4096  # zero bytes behind the voxels, as tapes and some writers leave, are no fault
GZIP, ZLIB_OR_GZIP = 31, 47  # zlib's names of the two


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What a reader raises for broken bytes, as one VolumeError that names the file."""
    try:
        yield
    except VolumeError:
        raise
    except MemoryError as error:
        raise VolumeError(f"{path} does not fit into memory ({error or 'nothing is left'})") from error
    except (OSError, EOFError, ValueError, OverflowError, struct.error, zlib.error) as error:
        raise VolumeError(f"{path} is damaged, cut short or of another format ({error}); get it anew") from error


class Inflated:
    """A deflated file from where it stands, a bounded piece at a time.

    Whoever reads it to its end has had its checksums and lengths compared. Several streams one behind the other are
    one, as gzip has it; zero bytes behind the last are padding.

    Args:
        stream: the file.
        kind: GZIP or ZLIB_OR_GZIP.
    """

    def __init__(self, stream: BinaryIO, kind: int = GZIP) -> None:
        self._stream, self._kind = stream, kind
        self._inflater = zlib.decompressobj(kind)
        self._deflated = b""  # read, and not inflated yet

    def readinto(self, target: np.ndarray) -> int:
        """Fill a buffer of bytes; returns how many, fewer only at the end."""
        filled = 0
        while filled < len(target) and (piece := self._piece(len(target) - filled)):
            target[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
        return filled

    def read(self, count: int) -> bytes:
        """So many bytes, fewer only at the end."""
        buffer = bytearray()
        while len(buffer) < count and (piece := self._piece(count - len(buffer))):
            buffer += piece
        return bytes(buffer)

    def _piece(self, most: int) -> bytes:
        """At least one byte, at most ``most``; none at the end."""
        while not self._inflater.eof or self._next_stream():
            data = self._deflated or self._stream.read(CHUNK)
            piece = self._inflater.decompress(data, min(most, CHUNK))
            self._deflated = self._inflater.unconsumed_tail
            if piece:
                return piece
            if not data and not self._inflater.eof:
                raise EOFError("the compressed data end too early")
        return b""

    def _next_stream(self) -> bool:
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest and (more := self._stream.read(CHUNK)):
            rest = more.lstrip(b"\0")
        self._inflater = zlib.decompressobj(self._kind) if rest else self._inflater
        self._deflated = rest
        return bool(rest)


class Unpacked:
    """The same of bzip2, which compares its checksums itself."""

    def __init__(self, stream: BinaryIO) -> None:
        self._file = bz2.BZ2File(stream)

    def readinto(self, target: np.ndarray) -> int:
        filled = 0
        while filled < len(target) and (count := self._file.readinto(target[filled : filled + CHUNK].data)):
            filled += count
        return filled

    def read(self, count: int) -> bytes:
        return self._file.read(count)


def inflated_voxels(path: Path, stream: Inflated | Unpacked, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The rest of a compressed file as an array in C order, read to its end.

    Raises:
        VolumeError, EOFError, OSError, zlib.error: for other bytes than the header claims, and for damaged ones.
    """
    claimed = math.prod(shape) * dtype.itemsize
    if isinstance(stream, Inflated) and claimed > (most := path.stat().st_size * DEFLATE_RATIO):
        raise VolumeError(f"{path}: its header claims {claimed} bytes of voxels, the file can hold at most {most}")
    check_memory(path, claimed + 4 * math.prod(shape))
    array = np.empty(shape, dtype)  # its pages come to life as they are filled
    found = stream.readinto(array.reshape(-1).view(np.uint8))
    _compare(path, claimed, found, stream.read(PADDING + 1))
    return array


def stored_voxels(path: Path, offset: int | None, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """A copy-on-write memory map in C order of what lies plainly in a file, at its end where ``offset`` is None.

    Raises:
        VolumeError: for other bytes than the header claims.
    """
    claimed, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    offset = max(size - claimed, 0) if offset is None else offset
    held = size - offset
    tail = b""
    if held > claimed:
        with path.open("rb") as stream:
            stream.seek(offset + claimed)
            tail = stream.read(PADDING + 1)
    _compare(path, claimed, min(held, claimed), tail)
    check_memory(path, 4 * math.prod(shape))
    return np.memmap(path, dtype, "c", offset, tuple(shape))


def written_voxels(path: Path, stream: BinaryIO, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The rest of a file as numbers in decimal, separated by spaces."""
    count = math.prod(shape)
    rest = path.stat().st_size - stream.tell()
    if 2 * count > rest + 1:  # a digit and a space each
        raise VolumeError(f"{path}: its header claims {count} voxels, {rest} bytes of text cannot hold them")
    check_memory(path, 100 * count)  # as objects of Python
    words = stream.read().split()
    if len(words) != count:
        raise VolumeError(f"{path}: its header claims {count} voxels, the file holds {len(words)} numbers")
    whole = [int(word) for word in words] if dtype.kind in "iu" else [float(word) for word in words]
    return np.array(whole, dtype.newbyteorder("=")).reshape(shape)  # raises where one does not fit its type


def check_memory(path: Path, needed: int) -> None:
    """Raises VolumeError where a scan needs more bytes than this machine, or its container, has free."""
    free = _free_bytes()
    if needed > free:
        raise VolumeError(
            f"{path}: reading it needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; if its header is "
            "right, use a machine with more memory, or fewer processes"
        )


def _free_bytes() -> int:
    """Linux' estimate, the container's limit included; endless where there is none."""
    free = [2**63]
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(1024 * sum(int(words[1]) for words in lines if words[0] in ("MemAvailable:", "SwapFree:")))
    except (OSError, ValueError, IndexError):
        return free[0]
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free.append(max(limit - used + int(counts["inactive_file"]), 0))
    except (OSError, ValueError, KeyError):  # "max", or no version 2 of control groups
        return min(free)
    return min(free)


def _compare(path: Path, claimed: int, found: int, tail: bytes) -> None:
    if found < claimed:
        raise VolumeError(
            f"{path} is damaged or cut short: its header claims {claimed} bytes of voxels, it holds {max(found, 0)}; "
            "get it anew"
        )
    if len(tail) > PADDING or any(tail):
        more = f"more than {PADDING}" if len(tail) > PADDING else str(len(tail))
        raise VolumeError(
            f"{path} is damaged: its header claims {claimed} bytes of voxels, and {more} bytes follow them; get it anew"
        )
