"""Files to arrays and back: axes, channels, affines, and what is refused."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from cases.registry import RegistryError
from cases.volumes import (
    Geometry,
    VolumeError,
    case_files,
    formats_in_use,
    is_volume,
    read_label,
    read_volume,
    stem,
    use_formats,
    write_volume,
)

SHAPE = (12, 16, 20)


def oblique():
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * (0.5, 0.75, 2.0)
    affine[:3, 3] = (-30.0, 12.5, 7.0)
    return affine


def geometry(affine=None, shape=SHAPE):
    return Geometry.of(shape, (2.0, 0.75, 0.5), oblique() if affine is None else affine)


def ramp():
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd"])
def test_write_then_read_keeps_voxels_and_oblique_affine(tmp_path, name):
    write_volume(tmp_path / name, ramp(), geometry())
    image, back = read_volume([tmp_path / name])
    assert image.shape == (1, *SHAPE) and image.dtype == np.float32
    assert np.array_equal(image[0], ramp())
    assert np.allclose(back.affine_array, oblique(), atol=1e-5)
    assert np.allclose(back.spacing_mm, (2.0, 0.75, 0.5), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_depth_is_the_last_axis_of_nifti(tmp_path):
    write_volume(tmp_path / "a.nii.gz", ramp(), geometry())
    stored = nibabel.load(tmp_path / "a.nii.gz")
    assert stored.shape == (20, 16, 12)
    assert stored.dataobj[3, 5, 7] == ramp()[7, 5, 3]


def test_metaimage_and_nifti_tell_the_same_place(tmp_path):
    write_volume(tmp_path / "a.nii.gz", ramp(), geometry())
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.mha"))
    assert geometry().mismatch(read_volume([tmp_path / "a.mha"])[1]) is None


def test_channels_of_one_file_and_of_several(tmp_path):
    both = np.stack([ramp(), -ramp()])
    write_volume(tmp_path / "both.nii.gz", both, geometry())
    for index in (0, 1):
        write_volume(tmp_path / f"c_{index:04d}.nii.gz", both[index], geometry())
    assert np.array_equal(read_volume([tmp_path / "both.nii.gz"])[0], both)
    assert np.array_equal(read_volume([tmp_path / "c_0000.nii.gz", tmp_path / "c_0001.nii.gz"])[0], both)


def test_channels_on_two_grids_are_refused(tmp_path):
    moved = oblique()
    moved[0, 3] += 1
    write_volume(tmp_path / "a.nii.gz", ramp(), geometry())
    write_volume(tmp_path / "b.nii.gz", ramp(), geometry(moved))
    with pytest.raises(VolumeError, match=r"a\.nii\.gz and .*b\.nii\.gz .* up to 1 mm apart"):
        read_volume([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"])


def test_dicom_folder(tmp_path):
    for index in range(4):
        image = SimpleITK.GetImageFromArray(np.full((1, 5, 6), 100 * index, np.int16))
        image.SetSpacing((0.5, 0.75, 2.0))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2.4", "0008|0018": f"1.2.5.{index}"}
        tags |= {"0020|0032": f"10\\20\\{2 * index}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(index)}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{index}.dcm"))
        writer.Execute(image)
    image, where = read_volume([tmp_path])
    assert image.shape == (1, 4, 5, 6) and image[0, :, 0, 0].tolist() == [0, 100, 200, 300]
    assert where.affine_array[:3, 3].tolist() == [-10, -20, 0]
    assert where.spacing_mm == (2.0, 0.75, 0.5)


def test_label_values(tmp_path):
    for name, value, dtype in [("ok", 117, np.float32), ("half", 0.5, np.float32), ("below", -1, np.int16)]:
        label = np.zeros(SHAPE, dtype)
        label[1, 2, 3] = value
        write_volume(tmp_path / f"{name}.nii.gz", label, geometry())
    label, _ = read_label(tmp_path / "ok.nii.gz")
    assert label.dtype == np.uint8 and label.shape == (1, *SHAPE) and label[0, 1, 2, 3] == 117
    with pytest.raises(VolumeError, match=r"half\.nii\.gz: label value 0\.5 is not a whole number"):
        read_label(tmp_path / "half.nii.gz")
    with pytest.raises(VolumeError, match=r"below\.nii\.gz: label values reach from -1 to 0"):
        read_label(tmp_path / "below.nii.gz")


def test_damaged_files_are_named(tmp_path):
    write_volume(tmp_path / "whole.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), geometry())
    content = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "noise.nii.gz").write_bytes(b"not a scan")
    (tmp_path / "noise.mha").write_bytes(b"not a scan")
    for name in ("cut.nii.gz", "noise.nii.gz", "noise.mha"):
        with pytest.raises(VolumeError, match=name.replace(".", r"\.") + " is .*damaged.*get it anew"):
            read_volume([tmp_path / name])
    with pytest.raises(VolumeError, match=r"absent\.nii\.gz does not exist"):
        read_volume([tmp_path / "absent.nii.gz"])


def test_grids_differ_by_shape_or_place():
    nearly, moved = oblique(), oblique()
    nearly[2, 3] += 0.01
    moved[2, 3] += 0.4
    assert geometry().mismatch(geometry(nearly)) is None
    assert "0.4 mm apart" in str(geometry().mismatch(geometry(moved)))
    assert "differ" in str(geometry().mismatch(geometry(shape=(12, 20, 16))))


def test_names(tmp_path):
    assert stem(tmp_path / "case.1.nii.gz") == "case.1"
    assert not is_volume(tmp_path / "._case.nii.gz")
    with pytest.raises(VolumeError, match="must end in one of"):
        write_volume(tmp_path / "a.png", ramp(), geometry())


OWN = """
import numpy as np

from cases.volumes.format import Format
from cases.volumes.geometry import Geometry


class Raw(Format):
    suffixes = (".npy",)

    def read(self, path):
        array = np.load(path)
        return array[None], Geometry.of(array.shape, (1, 1, 1), np.eye(4))


class Flat(Raw):
    suffixes = (".flat.npy",)

    def read(self, path):
        return np.load(path), super().read(path)[1]


class Broken(Raw):
    suffixes = (".broken.npy",)

    def read(self, path):
        return {}["voxels"]


class Nothing:
    pass


class Choosy(Raw):
    def __init__(self, what):
        pass
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own_volume_formats.py"
    path.write_text(OWN)
    yield path
    use_formats(())
    sys.modules.pop(path.stem, None)
    sys.path.remove(str(tmp_path))


def test_an_own_format_is_asked_first(own, tmp_path):
    np.save(tmp_path / "a.npy", ramp())
    assert not is_volume(tmp_path / "a.npy")
    use_formats([f"{own}:Raw"])
    assert formats_in_use() == (f"{own}:Raw",)
    assert is_volume(tmp_path / "a.npy") and stem(tmp_path / "a.npy") == "a"
    assert case_files(tmp_path) == {"a": tmp_path / "a.npy"}
    image, where = read_volume([tmp_path / "a.npy"])
    assert np.array_equal(image, ramp()[None]) and where.shape_dhw == SHAPE
    with pytest.raises(VolumeError, match=r"must end in one of \.nii\.gz, \.nii, \.mha"):
        write_volume(tmp_path / "b.npy", ramp(), geometry())
    use_formats(())
    assert not is_volume(tmp_path / "a.npy")


def test_own_formats_that_cannot_be_used_are_one_message(own, tmp_path):
    for name in ("a.flat.npy", "a.broken.npy"):
        np.save(tmp_path / name, ramp())
    for name, message in {
        "Nothing": "is no format: it has no suffixes, owns, read",
        "Choosy": "is no format: it is not made without arguments",
        "Row": "defines no Row; did you mean Raw",
    }.items():
        with pytest.raises(RegistryError, match=message):
            use_formats([f"{own}:{name}"])
    use_formats([f"{own}:Flat", f"{own}:Broken"])
    with pytest.raises(VolumeError, match=r"Flat read an array of shape \(12, 16, 20\) for a grid of \(12, 16, 20\)"):
        read_volume([tmp_path / "a.flat.npy"])
    with pytest.raises(VolumeError, match=r"Broken cannot read it \(KeyError: 'voxels'\)"):
        read_volume([tmp_path / "a.broken.npy"])


def test_reading_nifti_imports_no_simpleitk(tmp_path):
    write_volume(tmp_path / "a.nii.gz", ramp(), geometry())
    code = "import sys; from pathlib import Path; from cases.volumes import read_volume; "
    code += f"read_volume([Path({str(tmp_path / 'a.nii.gz')!r})]); print('SimpleITK' in sys.modules)"
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
