"""MetaImage: the same as ITK reads, and headers at which ITK crashes."""

import zlib

import numpy as np
import pytest
import SimpleITK

from cases.volumes import VolumeError, read_volume

DATA = np.arange(2 * 3 * 8, dtype=">i2")
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "True",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 1 0 0 0 0 -1",
    "Offset": "1.5 -2 3",
    "ElementSpacing": "0.5 0.75 2",
    "DimSize": "2 3 8",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(payload=None, name="a.mha", **changes):
        fields = {key: value for key, value in (HEADER | changes).items() if value is not None}
        fields["ElementDataFile"] = fields.pop("ElementDataFile")
        text = "".join(f"{key} = {value}\n" for key, value in fields.items())
        (tmp_path / name).write_bytes(text.encode() + (DATA.tobytes() if payload is None else payload))
        return read_volume([tmp_path / name])

    return write_and_read


def assert_read_as_by_itk(path):
    """Voxels, spacing and, LPS being RAS with two signs turned, the place."""
    image = SimpleITK.ReadImage(str(path))
    values, geometry = read_volume([path])
    expected = SimpleITK.GetArrayFromImage(image)
    many = image.GetNumberOfComponentsPerPixel() > 1
    np.testing.assert_array_equal(values, np.moveaxis(expected, -1, 0) if many else expected[None])
    assert geometry.spacing_mm == image.GetSpacing()[::-1]
    for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        place = (geometry.affine_array @ (*index, 1))[:3] * (-1, -1, 1)
        np.testing.assert_allclose(place, image.TransformIndexToPhysicalPoint(index), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "True"},
        {"Offset": None, "Position": "4 5 6", "TransformMatrix": None, "Orientation": "0 0 1 1 0 0 0 1 0"},
        {"ElementSpacing": None, "ElementSize": "1 2 3"},
        {"DimSize": "2 3 4", "ElementNumberOfChannels": "2"},
        {"Comment": "as one likes", "AnatomicalOrientation": "RAI", "CenterOfRotation": "1 1 1"},
    ],
)
def test_read_as_by_itk(read, tmp_path, changes):
    read(**changes)
    assert_read_as_by_itk(tmp_path / "a.mha")


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_what_itk_writes(tmp_path, dtype, name, compressed):
    values = np.random.default_rng(1).integers(0, 100, (4, 5, 6)).astype(dtype)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(tmp_path / name), useCompression=compressed)
    np.testing.assert_array_equal(read_volume([tmp_path / name])[0][0], values)


def test_deflated_and_written_voxels_and_a_file_with_a_head(read, tmp_path):
    expected = read()[0]
    for payload, changes in (
        (zlib.compress(DATA.tobytes()), {"CompressedData": "True", "CompressedDataSize": "7"}),
        (b" ".join(b"%d" % value for value in DATA), {"BinaryData": "False"}),
    ):
        np.testing.assert_array_equal(read(payload, **changes)[0], expected)
    (tmp_path / "a.raw").write_bytes(b"head" + DATA.tobytes())
    for skipped in ("4", "-1"):
        values, _ = read(b"", "a.mhd", HeaderSize=skipped, ElementDataFile="a.raw")
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NDims": "18446744073709551615"}, "has 18446744073709551615 dimensions"),
        ({"NDims": "999999999"}, "has 999999999 dimensions"),
        ({"NDims": "9" * 5000}, "NDims '9999.*, not 1 whole numbers"),
        ({"NDims": "2", "DimSize": "6 8"}, "has 2 dimensions; scans have 3"),
        ({"DimSize": "2 3 -8"}, "DimSize '2 3 -8', not numbers from 1 on"),
        ({"DimSize": "2 3"}, "DimSize '2 3', not 3 whole numbers"),
        ({"DimSize": "32767 32767 32767"}, "claims 70362301923326 bytes of voxels, it holds 96"),
        ({"DimSize": "2 3 7"}, "claims 84 bytes of voxels, and 12 bytes follow them"),
        ({"ElementNumberOfChannels": "0"}, "ElementNumberOfChannels '0', not a number from 1 on"),
        ({"ElementSpacing": "0.5 nan 2"}, "ElementSpacing '0.5 nan 2', not 3 finite numbers"),
        ({"ElementSpacing": "0.5 0 2"}, r"voxel size 2 x 0 x 0\.5 mm"),
        ({"ElementSpacing": "1e-5 1 2"}, "is not within 0.001 to 1000"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "lie in a plane"),
        (
            {"TransformMatrix": "2 0 0 0 1 0 0 0 1"},
            r"voxel size 2 x 0\.75 x 0\.5 mm .* but 2 x 0\.75 x 1 mm by its affine",
        ),
        ({"Offset": "1e7 0 0"}, "beyond 1 km"),
        ({"Position": "1 1 1"}, "Position '1 1 1', not what Offset is"),
        ({"ElementType": "MET_NONE"}, "ElementType 'MET_NONE', not one of met_char"),
        ({"ElementType": None}, "no ElementType"),
        ({"CompressedData": "True"}, "while decompressing data"),
        ({"BinaryData": "False"}, r"holds \d+ numbers|text cannot hold|invalid literal"),
        ({"Comment": "x" * 2_000_000}, "a header line of more than"),
        ({"HeaderSize": "5"}, "HeaderSize '5', not 0"),
        ({"ElementDataFile": "LIST"}, "spread over several files"),
        ({"ElementDataFile": "a%03d.raw 1 9 1"}, "spread over several files"),
        ({"ElementDataFile": "none.raw"}, r"none\.raw does not exist"),
    ],
)
def test_headers_are_checked_first(read, changes, message):
    with pytest.raises(VolumeError, match=rf"a\.mha.*{message}"):
        read(**changes)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "sub/a.raw", "sub\\a.raw", ".."])
def test_no_file_outside_its_folder_is_read(read, tmp_path, name):
    (tmp_path.parent / "secret.raw").write_bytes(DATA.tobytes())
    with pytest.raises(VolumeError, match="only one beside it is read, by its bare name"):
        read(b"", "a.mhd", ElementDataFile=name)


def test_no_changed_byte_of_a_deflated_stream_changes_a_voxel(read, tmp_path):
    whole = zlib.compress(DATA.tobytes())
    for place in range(2, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        with pytest.raises(VolumeError, match=r"a\.mha"):
            read(bytes(damaged), CompressedData="True")
