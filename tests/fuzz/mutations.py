"""What goes wrong with files: bits, blocks and ends, fields of NIfTI, words of headers in text, slices of DICOM."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.nifti2 import Nifti2Header

from tests.fuzz.samples import Sample, gunzipped

NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"3",
    b"1e-40",
    b"1e38",
    b"1e400",
    b"nan",
    b"inf",
    b"-inf",
    b"1.5",
    b"0x10",
    b"32767",
)
NUMBERS += (b"999999999", b"4294967296", b"18446744073709551615", b"9" * 5000, b"", b"True", b"LOCAL", b"(", b"../x")
FIELD_VALUES = (0, 1, -1, 2, 3, 4, 7, 8, 16, 64, 127, 255, 348, 352, 353, 540, 32767, -32768, 2**31 - 1, 2**62)
FIELD_VALUES += (0.5, 1e-40, 1e-4, 1e30, 1e300, float("nan"), float("inf"), float("-inf"))


@dataclass(frozen=True)
class Mutated:
    """A sample that something happened to.

    Attributes:
        files: by name.
        how: in words.
        sealed: bytes of a stream with a checksum were changed: accepted, it must be the original scan.
        wrong: it must not be accepted at all.
    """

    files: Sample
    how: str
    sealed: bool = False
    wrong: bool = False


def mutate(kind: str, files: Sample, rng: np.random.Generator) -> Mutated:
    """One of the mutations of a format."""
    own = {"nifti": [field], "metaimage": [word, word, line], "nrrd": [word, word, line], "dicom": [slices, element]}
    chosen: list[Callable[[Sample, np.random.Generator], Mutated]] = [bits, block, cut, *own[kind], *own[kind]]
    return chosen[rng.integers(len(chosen))](files, rng)


def bits(files: Sample, rng: np.random.Generator) -> Mutated:
    """One to four flipped bits."""
    name, data = _one(files, rng)
    places = rng.integers(0, len(data), rng.integers(1, 5))
    for place in places:
        data[place] ^= 1 << int(rng.integers(8))
    return Mutated({**files, name: bytes(data)}, f"bits of {name} at {places.tolist()}", sealed=_sealed(name, places))


def block(files: Sample, rng: np.random.Generator) -> Mutated:
    """A run of bytes that becomes zero, noise, another length, or is there twice."""
    name, data = _one(files, rng)
    start, count = int(rng.integers(len(data))), int(rng.integers(1, 64))
    run = bytes(data[start : start + count])
    new = (b"\0" * len(run), rng.bytes(len(run)), b"", run + run, b"\xff" * len(run))[rng.integers(5)]
    data[start : start + count] = new
    changed = Mutated({**files, name: bytes(data)}, f"{count} bytes of {name} from {start} become {new[:4]!r}...")
    return Mutated(changed.files, changed.how, sealed=_sealed(name, np.array([start])) and new != run)


def cut(files: Sample, rng: np.random.Generator) -> Mutated:
    """A file that ends early, or that goes on."""
    name, data = _one(files, rng)
    if rng.random() < 0.3:
        return Mutated({**files, name: bytes(data) + rng.bytes(int(rng.integers(1, 99)))}, f"{name} goes on")
    end = int(rng.integers(len(data)))
    return Mutated({**files, name: bytes(data[:end])}, f"{name} ends at {end}", sealed=name.endswith(".gz"))


def field(files: Sample, rng: np.random.Generator) -> Mutated:
    """One or two fields of a NIfTI header, whose stream is then sound again."""
    (name, stored) = next(iter(files.items()))
    data = bytearray(gunzipped(stored) if name.endswith(".gz") else stored)
    size = 348 if data[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else 540
    header = (nibabel.Nifti1Header if size == 348 else Nifti2Header)(bytes(data[:size]), check=False)
    array = header.structarr
    said = []
    for _ in range(rng.integers(1, 3)):
        key = str(rng.choice(list(array.dtype.names)))
        value = FIELD_VALUES[rng.integers(len(FIELD_VALUES))]
        said.append(f"{key} {value}")
        part = array[key].reshape(-1) if array[key].ndim else array[key].reshape(1)
        place = rng.integers(part.size)
        with np.errstate(all="ignore"):
            part[place] = np.float64(value).astype(part.dtype) if part.dtype.kind in "iuf" else b"x"
    data[:size] = header.binaryblock
    changed = gzip.compress(bytes(data), mtime=0) if name.endswith(".gz") else bytes(data)
    return Mutated({name: changed}, f"{name}: {', '.join(said)}")


def word(files: Sample, rng: np.random.Generator) -> Mutated:
    """One word of a header in text."""
    name, head, rest = _text(files)
    words = list(re.finditer(rb"[^\s,()=:]+", head))
    found = words[rng.integers(len(words))]
    new = NUMBERS[rng.integers(len(NUMBERS))]
    data = head[: found.start()] + new + head[found.end() :] + rest
    return Mutated({**files, name: data}, f"{name}: {found[0]!r} becomes {new[:20]!r}")


def line(files: Sample, rng: np.random.Generator) -> Mutated:
    """A line of a header in text that is missing, twice, elsewhere, or without end."""
    name, head, rest = _text(files)
    lines = head.splitlines(keepends=True)
    index = int(rng.integers(len(lines)))
    what = int(rng.integers(4))
    taken = lines.pop(index)
    if what == 1:
        lines[index:index] = [taken, taken]
    elif what == 2:
        lines.insert(int(rng.integers(len(lines) + 1)), taken)
    elif what == 3:
        lines.insert(index, taken.rstrip(b"\n") + b"x" * int(rng.choice([5_000, 100_000])) + b"\n")
    how = ("is missing", "is there twice", "moves", "has no end")[what]
    return Mutated({**files, name: b"".join(lines) + rest}, f"{name}: line {taken[:30]!r} {how}")


def slices(files: Sample, rng: np.random.Generator) -> Mutated:
    """A slice within a series that is missing, empty, there twice, or cut short."""
    names = sorted(files)
    name = names[rng.integers(1, len(names) - 1)]
    what = int(rng.integers(4))
    others = {other: data for other, data in files.items() if other != name}
    data = files[name]
    if what == 1:
        others[name] = b""
    elif what == 2:
        others |= {name: data, "s/copy.dcm": data}
    elif what == 3:
        others[name] = data[: int(rng.integers(1, len(data) - 8))]
    return Mutated(others, f"{name} is {('missing', 'empty', 'there twice', 'cut short')[what]}", wrong=True)


def element(files: Sample, rng: np.random.Generator) -> Mutated:
    """The value, or the length, of an element of a DICOM file."""
    name, data = _one(files, rng)
    tags = [match.start() for match in re.finditer(rb"[\x02\x08\x18\x20\x28]\0..", bytes(data[:-8]), re.DOTALL)]
    tag = tags[rng.integers(len(tags))]
    if rng.random() < 0.5:
        data[tag + 6 : tag + 8] = rng.bytes(2)  # explicit; a part of it where types are implicit
        return Mutated({**files, name: bytes(data)}, f"{name}: length of {data[tag : tag + 4].hex()}")
    count = int.from_bytes(data[tag + 6 : tag + 8], "little") or 4
    new = (b"9" * count, b"\0" * count, b"-" * count, rng.bytes(count), b"1".ljust(count))[rng.integers(5)]
    data[tag + 8 : tag + 8 + count] = new
    return Mutated({**files, name: bytes(data)}, f"{name}: {data[tag : tag + 4].hex()} becomes {new[:9]!r}")


def _one(files: Sample, rng: np.random.Generator) -> tuple[str, bytearray]:
    name = list(files)[rng.integers(len(files))]
    return name, bytearray(files[name])


def _sealed(name: str, places: np.ndarray) -> bool:
    """Whether only bytes of a stream with checksums were changed, gzip's header of 10 bytes aside."""
    return name.endswith((".gz", ".zraw")) and bool((places >= (10 if name.endswith(".gz") else 2)).all())


def _text(files: Sample) -> tuple[str, bytes, bytes]:
    """Name, header in text, and the voxels behind it."""
    name, data = next(iter(files.items()))
    mark = b"ElementDataFile = LOCAL\n" if name.startswith("a.m") else b"\n\n"
    end = data.find(mark)
    end = len(data) if end < 0 else end + len(mark)
    return name, data[:end], data[end:]
