"""NRRD: the same as ITK reads, and headers at which ITK crashes."""

import bz2
import gzip

import numpy as np
import pytest

from cases.volumes import VolumeError, read_volume
from tests.cases.volumes.test_metaimage import DATA, assert_read_as_by_itk

HEADER = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "space dimension": None,
    "sizes": "2 3 8",
    "space directions": "(0,0.5,0) (0.75,0,0) (0,0,-2)",
    "endian": "big",
    "encoding": "raw",
    "space origin": "(1.5,-2,3)",
}
NO_SPACE = {"space": None, "space directions": None, "space origin": None}


@pytest.fixture
def read(tmp_path):
    def write_and_read(payload=None, name="a.nrrd", **changes):
        fields = HEADER | {key.replace("_", " "): value for key, value in changes.items()}
        lines = [f"{key}: {value}" for key, value in fields.items() if value is not None]
        text = "\n".join(["NRRD0004", "# a comment", *lines, "mine:=as one: likes", "", ""])
        (tmp_path / name).write_bytes(text.encode() + (DATA.tobytes() if payload is None else payload))
        return read_volume([tmp_path / name])

    return write_and_read


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"space": "RAS"},
        {"space": "left-anterior-superior"},
        {"space": "scanner-xyz"},
        {"space": None, "space dimension": "3", "space directions": "( 1, 0 , 0) (0,2,0)(0,0, 3)"},
        {"space origin": None},
        {"byte skip": "-1"},
        {**NO_SPACE, "spacings": "1 2 3"},
        {**NO_SPACE, "spacings": "1 2 3", "axis mins": "5 6 7"},
        {**NO_SPACE, "spacings": "1 2 3", "axis mins": "5 6 7", "centers": "node node cell"},
        {
            "dimension": "4",
            "sizes": "2 3 4 2",
            "kinds": "domain domain domain list",
            "space directions": "(1,0,0) (0,2,0) (0,0,3) none",
        },
        {
            "dimension": "4",
            "sizes": "2 2 3 4",
            "kinds": "vector domain domain domain",
            "space directions": "none (1,0,0) (0,2,0) (0,0,3)",
        },
    ],
)
def test_read_as_by_itk(read, tmp_path, changes):
    read(**changes)
    assert_read_as_by_itk(tmp_path / "a.nrrd")


def test_encodings_and_a_file_beside_the_header(read, tmp_path):
    expected = read()[0]
    for encoding, payload in (
        ("gzip", gzip.compress(DATA.tobytes())),
        ("bzip2", bz2.compress(DATA.tobytes())),
        ("ascii", b" ".join(b"%d" % value for value in DATA)),
    ):
        np.testing.assert_array_equal(read(payload, encoding=encoding)[0], expected)
    (tmp_path / "a.raw").write_bytes(b"head" + DATA.tobytes())
    np.testing.assert_array_equal(read(b"", "a.nhdr", data_file="a.raw", byte_skip="4")[0], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": "x" * 2_000_000}, "a header line of more than"),
        ({"dimension": "99999"}, "dimension '99999', not 1 to 16"),
        ({"dimension": "4", "sizes": "2 3 4 2", "space directions": None}, "has 4 dimensions, 0 of them channels"),
        ({"sizes": "2 3 0"}, "sizes '2 3 0', not numbers from 1 on"),
        ({"sizes": "32767 32767 32767"}, "claims 70362301923326 bytes of voxels, it holds 96"),
        ({"sizes": "2 3 7"}, "claims 84 bytes of voxels, and 12 bytes follow them"),
        ({"type": "block"}, "type 'block', not one of"),
        ({"endian": None}, "no endian"),
        ({"encoding": "hex"}, "encoding 'hex', not one of"),
        ({"encoding": "gzip"}, "incorrect header check"),
        ({"space": "somewhere"}, "space 'somewhere', not one of"),
        ({"space directions": "(1,0,0) (0,2,0)"}, "not 3 directions"),
        ({"space directions": "(1,0,0) (0,2,0) (0,nan,3)"}, r"\(3 finite numbers\)"),
        ({"space directions": "(1,0,0) (2,0,0) (0,0,3)"}, "lie in a plane"),
        ({"space directions": "(1,0,0) (0,0,0) (0,0,3)"}, "directions with a length"),
        ({**NO_SPACE, "spacings": "1 2 nan"}, "not finite numbers"),
        ({**NO_SPACE, "spacings": "1 2 1e-5"}, "is not within 0.001 to 1000"),
        ({"kinds": "complex domain domain"}, "not plain numbers"),
        ({"data file": "LIST"}, "spread over several files"),
        ({"data file": "../a.raw"}, "only one beside it is read"),
        ({"byte skip": "-7"}, "byte skip '-7'"),
    ],
)
def test_headers_are_checked_first(read, changes, message):
    with pytest.raises(VolumeError, match=rf"a\.nrrd.*{message}"):
        read(**changes)


def test_a_long_line_at_which_itk_crashes_is_read(read):
    assert read(content="x" * 5_000)[0].shape == (1, 8, 3, 2)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_no_changed_byte_of_a_compressed_stream_changes_a_voxel(read, encoding, pack):
    whole = pack(DATA.tobytes())
    for place in range(10, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        try:
            values, _ = read(bytes(damaged), encoding=encoding)
        except VolumeError as error:
            assert "a.nrrd" in str(error)
        else:  # bits that pad bzip2's last byte
            np.testing.assert_array_equal(values.ravel(), DATA)
