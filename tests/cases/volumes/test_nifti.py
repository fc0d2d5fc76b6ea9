"""NIfTI: streams are read to their end, headers are checked before anything is allocated."""

import gzip
import resource

import nibabel
import numpy as np
import pytest

from cases.volumes import VolumeError, read_volume

SHAPE = (5, 6, 7)  # D, H, W


def plain(shape_xyz=SHAPE[::-1], dtype="i2", **fields):
    """Bytes of a file whose header's fields are set last, so that nibabel does not mend them."""
    values = np.arange(np.prod(shape_xyz)).reshape(shape_xyz).astype(dtype)
    image = nibabel.Nifti1Image(values, np.diag([0.5, 0.75, 2.0, 1.0]))
    image.set_qform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    header = nibabel.Nifti1Header(data[:348], check=False)
    for key, value in fields.items():
        header.structarr[key] = value
    return header.binaryblock + data[348:]


@pytest.fixture
def read(tmp_path):
    def write_and_read(data, name="a.nii"):
        (tmp_path / name).write_bytes(data)
        return read_volume([tmp_path / name])

    return write_and_read


def test_no_flipped_bit_of_a_compressed_file_changes_a_voxel(read):
    whole = gzip.compress(plain(), mtime=0)
    values, _ = read(whole, "a.nii.gz")
    assert values.shape == (1, *SHAPE) and values[0, 1, 2, 3] == 1 + 5 * (2 + 6 * 3)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(10, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(VolumeError, match=r"a\.nii\.gz"):
            read(bytes(damaged), "a.nii.gz")
        refused += 1
    assert refused == 200


def test_a_stream_whose_checksum_or_length_fails_is_refused(read):
    whole = gzip.compress(plain(), mtime=0)
    for place, reason in ((-8, "incorrect data check"), (-4, "incorrect length check")):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(VolumeError, match=rf"a\.nii\.gz is damaged.*{reason}"):
            read(bytes(damaged), "a.nii.gz")
    with pytest.raises(VolumeError, match="end too early"):
        read(whole[:-1], "a.nii.gz")


def test_streams_one_behind_the_other_and_padding_are_read(read):
    data = plain()
    parts = gzip.compress(data[:300]) + gzip.compress(data[300:]) + b"\0" * 100
    assert np.array_equal(read(parts, "a.nii.gz")[0], read(data)[0])
    assert np.array_equal(read(data + b"\0" * 512)[0], read(data)[0])


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(read, tmp_path):
    small = gzip.compress(plain(dim=[3, 1024, 1024, 1024, 1, 1, 1, 1]), mtime=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VolumeError, match=r"claims 2147483648 bytes of voxels, the file can hold at most \d+$"):
        read(small, "a.nii.gz")
    with pytest.raises(VolumeError, match=r"claims 70362301923326 bytes of voxels, it holds 420"):
        read(plain(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # kB


def test_a_bomb_is_not_inflated_beyond_what_its_header_claims(read):
    bomb = gzip.compress(plain() + bytes(512 << 20), 9, mtime=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VolumeError, match=r"claims 420 bytes of voxels, and more than 4096 bytes follow them"):
        read(bomb, "a.nii.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vox_offset": np.inf}, "vox_offset inf is no place in a file"),
        ({"vox_offset": 1e9}, "claims 420 bytes of voxels, it holds 0"),
        ({"dim": [3, 7, -6, 5, 1, 1, 1, 1]}, r"shape \(7, -6, 5\) has no voxels"),
        ({"dim": [3, 7, 6, 4, 1, 1, 1, 1]}, "claims 336 bytes of voxels, and 84 bytes follow them"),
        ({"datatype": 128, "bitpix": 24}, "only plain numbers are read"),
        ({"scl_slope": np.inf}, "scl_slope inf and scl_inter .* are not finite"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "scl_slope 1.0 and scl_inter nan are not finite"),
        ({"magic": b"ni1"}, "not a NIfTI file with its voxels in it"),
        ({"xyzt_units": 5}, "xyzt_units 5 is no unit of length"),
        ({"quatern_b": 5, "sform_code": 0}, r"a\.nii is damaged"),
    ],
)
def test_headers_are_checked_first(read, fields, message):
    with pytest.raises(VolumeError, match=message):
        read(plain(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pixdim": [1, 1, 1, 1, 0, 0, 0, 0]},
            r"voxel size 1 x 1 x 1 mm \(D, H, W\), but 2 x 0\.75 x 0\.5 mm by its affine",
        ),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]}, "but 0 x 0 x 0 mm by its affine"),
        ({"srow_x": [0.5, 0, 0, np.nan]}, "is not finite"),
        ({"srow_x": [0.5, 0, 0, 1e30]}, "places it beyond 1 km"),
        (
            {"srow_x": [0.3, 0.45, 0, 0], "srow_y": [0.4, 0.6, 0, 0], "srow_z": [0, 0, 2, 0]},
            "the axes of its affine .* lie in a plane",
        ),
        ({"pixdim": [1, 1e-4, 0.75, 2, 0, 0, 0, 0], "sform_code": 0}, "is not within 0.001 to 1000"),
        ({"pixdim": [1, np.nan, 0.75, 2, 0, 0, 0, 0], "sform_code": 0}, "is not within 0.001 to 1000"),
    ],
)
def test_affines_and_spacings_must_be_those_of_a_scan(read, fields, message):
    with pytest.raises(VolumeError, match=rf"a\.nii: .*{message}"):
        read(plain(**fields))


def test_the_sform_alone_says_where_voxels_lie_where_there_is_no_qform(read):
    _, geometry = read(plain(pixdim=[1, 1, 1, 1, 0, 0, 0, 0], qform_code=0))
    assert geometry.spacing_mm == (2.0, 0.75, 0.5)
    _, geometry = read(plain(srow_x=[9, 9, 9, 9], sform_code=0))
    assert geometry.spacing_mm == (2.0, 0.75, 0.5) and geometry.affine[0][0] == 0.5


@pytest.mark.parametrize(("units", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1)])
def test_metres_and_microns_become_millimetres(read, units, factor):
    pixdim, rows = [1, *(np.array([0.5, 0.75, 2]) / factor), 0, 0, 0, 0], np.diag([0.5, 0.75, 2]) / factor
    fields = {f"srow_{name}": [*row, 3 / factor] for name, row in zip("xyz", rows, strict=True)}
    _, geometry = read(plain(xyzt_units=units, pixdim=pixdim, **fields))
    np.testing.assert_allclose(geometry.spacing_mm, (2.0, 0.75, 0.5), rtol=1e-6)
    np.testing.assert_allclose(geometry.affine_array[:3, 3], 3, rtol=1e-6)
    assert geometry.fault is None


def test_values_at_the_ends_of_float32(read):
    data = bytearray(plain(dtype="f8"))
    data[352:368] = np.array([1e-40, -1e38]).tobytes()
    values, _ = read(bytes(data))
    assert values[0, 0, 0, :2].tolist() == [float(np.float32(1e-40)), float(np.float32(-1e38))]
    data[352:360] = np.array([1e300]).tobytes()
    with pytest.raises(VolumeError, match=r"a\.nii: values reach beyond 3\.4e\+38, float32's end"):
        read(bytes(data))


def test_slope_and_intercept_and_channels(read):
    values, _ = read(plain(scl_slope=2, scl_inter=-1))
    assert values[0, 0, 0, :3].tolist() == [-1, 59, 119]
    for shape in ((7, 6, 5, 2), (7, 6, 5, 1, 2)):
        values, _ = read(plain(shape))
        assert values.shape == (2, *SHAPE) and values[:, 0, 0, 1].tolist() == [60, 61]
    values, geometry = read(plain((7, 6)))
    assert values.shape == (1, 1, 6, 7) and geometry.spacing_mm[1:] == (0.75, 0.5)


def test_plain_files_stay_in_their_memory_map(read):
    values, _ = read(plain(dtype="f4"))
    assert isinstance(values.base, np.memmap) or isinstance(values, np.memmap)
