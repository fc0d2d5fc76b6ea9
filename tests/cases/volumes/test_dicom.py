"""A DICOM series is whole, even and alike, or refused with what is missing and where."""

import struct

import numpy as np
import pytest

from cases.volumes import VolumeError, read_volume
from cases.volumes.dicom_header import read_dicom_header
from tests.fuzz.samples import dicom_slice

PIXELS = np.arange(12 * 5 * 6, dtype=np.int16).reshape(12, 5, 6)


@pytest.fixture
def series(tmp_path):
    """Writes slices: ``series(range(12), {3: {"t00280030": "1\\1"}})``, changes being by slice."""

    def write(indices=range(12), changes=None, **of_all):
        for index in indices:
            data = dicom_slice(PIXELS[index], index, **of_all, **(changes or {}).get(index, {}))
            (tmp_path / f"{index:02d}.dcm").write_bytes(data)
        return tmp_path

    return write


def at(z):
    return {"t00200032": f"10\\20\\{z}"}


def test_slices_lie_in_the_order_of_their_places(series):
    folder = series(changes={index: {"t00200013": str(50 - index)} for index in range(12)})
    (folder / "notes.txt").write_text("no slice")
    values, geometry = read_volume([folder])
    np.testing.assert_array_equal(values[0], PIXELS)
    assert geometry.spacing_mm == (2.0, 0.75, 0.5)
    assert geometry.affine_array[:3, 3].tolist() == [-10, -20, 0]


@pytest.mark.parametrize("compressor", ["JPEG"])
def test_compressed_slices(series, compressor):
    np.testing.assert_array_equal(read_volume([series(compressor=compressor)])[0][0], PIXELS)


def test_a_gap_is_named(series):
    folder = series([0, 1, 2, 3, 8, 9, 10, 11])
    with pytest.raises(
        VolumeError, match=r"between 6\.0 mm and 16\.0 mm: 4 slices missing \(03\.dcm, 08\.dcm\); get the whole series"
    ):
        read_volume([folder])


@pytest.mark.parametrize("missing", [1, 5, 10])
def test_one_missing_slice_is_seen(series, missing):
    folder = series([index for index in range(12) if index != missing])
    with pytest.raises(VolumeError, match=rf"between {2 * missing - 2}\.0 mm and .*: 1 slice missing"):
        read_volume([folder])


def test_ten_missing_of_forty(series, tmp_path):
    rng = np.random.default_rng(0)
    for index in set(range(40)) - set(rng.choice(np.arange(1, 39), 10, replace=False).tolist()):
        (tmp_path / f"{index:02d}.dcm").write_bytes(dicom_slice(PIXELS[0], index))
    with pytest.raises(VolumeError, match=r"is incomplete or uneven: between .* slices? missing"):
        read_volume([tmp_path])


def test_numbers_that_are_left_out(series):
    folder = series(range(6), {4: {"t00200013": "7"}, 5: {"t00200013": "8"}})
    with pytest.raises(VolumeError, match="with InstanceNumber 4 and 7 there are none; get the whole series"):
        read_volume([folder])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({3: at(4)}, r"02\.dcm and 03\.dcm lie both at 4\.0 mm"),
        ({index: at(7) for index in range(12)}, r"all 12 slices lie at 7\.0 mm"),
        ({11: at(50)}, r"between 20\.0 mm and 50\.0 mm: 14 slices missing \(10\.dcm, 11\.dcm\)"),
        ({5: at(10.9)}, r"between 8\.0 mm and 10\.9 mm: 2\.9 mm, not 2|uneven"),
        ({5: {"t00200037": "1\\0\\0\\0\\0\\1"}}, r"05\.dcm does not belong to 00\.dcm: its orientation is"),
        ({5: {"t0020000e": "1.2.9"}}, "holds 2 DICOM series; a scan's folder has exactly one"),
    ],
)
def test_places_that_make_no_scan(series, changes, message):
    with pytest.raises(VolumeError, match=message):
        read_volume([series(changes=changes)])


def test_slightly_uneven_slices_are_read(series):
    folder = series(changes={index: at(2 * index + 0.1 * (index % 3 == 1)) for index in range(12)})
    assert read_volume([folder])[1].spacing_mm[0] == 2.0


def test_slices_of_a_tilted_gantry_keep_their_places(series):
    folder = series(changes={index: {"t00200032": f"10\\{20 + index}\\{2 * index}"} for index in range(12)})
    _, geometry = read_volume([folder])
    assert geometry.affine_array[:3, 2].tolist() == pytest.approx([0, -1, 2])
    assert geometry.spacing_mm[0] == pytest.approx(5**0.5)


def test_other_sizes_do_not_belong(series):
    folder = series(range(5))
    (folder / "05.dcm").write_bytes(dicom_slice(np.zeros((5, 7), np.int16), 5))
    with pytest.raises(VolumeError, match=r"05\.dcm does not belong to 00\.dcm: its columns is 7, not 6"):
        read_volume([folder])


def changed(path, tag, value):
    """Puts a value into an element that is there, of the same length."""
    data = bytearray(path.read_bytes())
    place = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF)) + 8
    explicit = data[place - 4 : place - 2].isalpha()
    length = struct.unpack_from("<H", data, place - 2)[0] if explicit else struct.unpack_from("<I", data, place - 4)[0]
    assert len(value) <= length < 64
    data[place : place + length] = value.ljust(length)
    path.write_bytes(data)


def test_a_slice_without_a_place(series):
    folder = series(range(5))
    changed(folder / "03.dcm", 0x00200032, b"1\\2")
    with pytest.raises(VolumeError, match=r"03\.dcm has no ImagePositionPatient of three numbers"):
        read_volume([folder])


@pytest.mark.parametrize(("tag", "name"), [(0x00281053, "rescale slope and intercept"), (0x00280030, "pixel spacing")])
def test_other_elements_do_not_belong(series, tag, name):
    folder = series(range(5))
    changed(folder / "03.dcm", tag, {0x00281053: b"3", 0x00280030: b"1\\1"}[tag])
    with pytest.raises(VolumeError, match=rf"03\.dcm does not belong to 00\.dcm: its {name} is"):
        read_volume([folder])


def test_pet_scales_each_slice_of_its_own(series):
    folder = series(range(5), t00080060="PT")
    changed(folder / "03.dcm", 0x00281053, b"3")
    values, _ = read_volume([folder])
    np.testing.assert_array_equal(values[0], PIXELS[:5] * np.array([1, 1, 1, 3, 1])[:, None, None])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "is named as a slice, but is empty"),
        (100, "is named as a slice, but is no DICOM file, or a damaged one"),
        (400, "is damaged"),
        (-20, "is damaged"),
    ],
)
@pytest.mark.parametrize("index", [0, 5, 11])
def test_an_empty_or_truncated_slice_is_not_dropped(series, index, size, message):
    path = series() / f"{index:02d}.dcm"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(VolumeError, match=rf"{path.name} {message}"):
        read_volume([path.parent])


def test_the_last_slice_without_a_suffix_is_not_dropped_either(series):
    folder = series()
    for path in folder.iterdir():
        path.rename(path.with_suffix(""))
    np.testing.assert_array_equal(read_volume([folder])[0][0], PIXELS)
    (folder / "11").write_bytes(b"")
    with pytest.raises(VolumeError, match="11 is named as a slice, but is empty"):
        read_volume([folder])


def test_rows_that_the_pixels_do_not_fill(series):
    path = series(range(3)) / "01.dcm"
    changed(path, 0x00280010, struct.pack("<H", 60000))
    with pytest.raises(VolumeError, match=r"01\.dcm is damaged or cut short: its header claims 720000 bytes of pixels"):
        read_volume([path.parent])


def test_headers_of_files_that_are_no_dicom(tmp_path):
    for content in (b"", b"abc", b"\0" * 200):
        (tmp_path / "a").write_bytes(content)
        assert read_dicom_header(tmp_path / "a") is None
    with pytest.raises(VolumeError, match="holds no DICOM series"):
        read_volume([tmp_path])


def test_sequences_without_end_are_refused(tmp_path):
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + (sequence + item) * 5000)
    with pytest.raises(VolumeError, match=r"a\.dcm is damaged.*sequences within sequences without end"):
        read_volume([tmp_path])
