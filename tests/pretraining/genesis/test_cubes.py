"""The published cube generator against its definition, and its file layout."""

from pathlib import Path

import numpy as np
import pytest

from cases.case import Intensity
from cases.volumes import Geometry, write_volume
from pretraining.genesis import cubes as cu

SHARED = Path(__file__).parents[3].parent / "shared"
SMALL = cu.CubeSettings(cube_size=(8, 6, 5), scale=4, border=(3, 2, 4), tissue_filter=False)
AFFINE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def write_scan(path: Path, image_dhw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = tuple(image_dhw.shape)
    write_volume(path, image_dhw.astype(np.float32), Geometry(shape_dhw=shape, spacing_mm=(1, 1, 1), affine=AFFINE))


def lungs(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Air-filled lung at -850 HU with vessels, soft tissue in the outer third of H."""
    rng = np.random.default_rng(seed)
    image = rng.normal(-850, 60, shape)
    image[rng.random(shape) < 0.03] = 40
    image[:, : shape[1] // 3] = 50
    return image


def share_by_loop(crop: np.ndarray, threshold: float, depth: int) -> float:
    total = 0.0
    for d in range(depth):
        for h in range(crop.shape[1]):
            for w in range(crop.shape[2]):
                for k in range(3):
                    if d + k < len(crop) and crop[d + k, h, w] >= threshold:
                        total += 1 - k / 2
                        break
    return total / (depth * crop.shape[1] * crop.shape[2])


@pytest.mark.parametrize("extra", [0, 1, 2, 4])
def test_tissue_share_is_the_triple_loop(extra: int) -> None:
    crop = np.random.default_rng(extra).uniform(-1000, 100, (6 + extra, 7, 5))
    expected = share_by_loop(crop[:8], -150, 6)
    assert cu.tissue_share(crop, -150, 6) == pytest.approx(expected, abs=1e-6)
    assert 0.2 < expected < 0.9


def test_filter_keeps_lung_and_leaves_tissue_out() -> None:
    settings = cu.CubeSettings(cube_size=(16, 12, 8), scale=20, border=(0, 0, 0))
    image = lungs((24, 60, 40))
    cubes, _ = cu.cut_cubes(image, settings, np.random.default_rng(0))
    assert cubes.shape == (20, 16, 12, 8)
    assert (cubes >= 0.425).mean() < 0.15
    without, _ = cu.cut_cubes(
        image, cu.CubeSettings(**{**vars(settings), "tissue_filter": False}), np.random.default_rng(0)
    )
    assert (without >= 0.425).mean() > 0.2
    none, _ = cu.cut_cubes(np.full((24, 60, 40), 50.0), settings, np.random.default_rng(0))
    assert none.shape == (0, 16, 12, 8)


def test_axes_scale_and_border() -> None:
    d, h, w = np.meshgrid(np.arange(21), np.arange(16), np.arange(24), indexing="ij")
    image = (d + 100 * h + 10_000 * w).astype(np.float64)  # a voxel's value is its place
    settings = cu.CubeSettings(**{**vars(SMALL), "hu_range": (0.0, 1e6), "scale": 300})
    cubes, border = cu.cut_cubes(image, settings, np.random.default_rng(3))
    assert border == (3, 2, 4)
    places = np.round(cubes.astype(np.float64) * 1e6)
    first = places[:, 0, 0, 0]
    w0, h0, d0 = first // 10_000, first % 10_000 // 100, first % 100
    assert (w0.min(), w0.max()) == (3, 24 - 8 - 3)
    assert (h0.min(), h0.max()) == (2, 16 - 6 - 2)
    assert (d0.min(), d0.max()) == (4, 21 - 5 - 4)
    np.testing.assert_allclose(places[:, 1, 0, 0] - first, 10_000, atol=1)
    np.testing.assert_allclose(places[:, 0, 1, 0] - first, 100, atol=1)
    np.testing.assert_allclose(places[:, 0, 0, 1] - first, 1, atol=1)


def test_a_small_scan_gives_cubes_of_half_its_room() -> None:
    settings = cu.CubeSettings(**{**vars(SMALL), "border": (100, 100, 30), "scale": 60})
    d, h, w = np.meshgrid(np.arange(13), np.arange(14), np.arange(16), indexing="ij")
    image = (d + 100 * h + 10_000 * w) / 500.0 - 1000
    cubes, border = cu.cut_cubes(image, settings, np.random.default_rng(3))
    assert border == (2, 2, 2)  # of rooms of 8
    assert len(np.unique(cubes[:, 0, 0, 0])) > 30  # of 5 x 5 x 5 places, not the middle one again and again


def test_hu_are_clipped_and_scaled() -> None:
    image = np.full((5, 6, 8), -500.0)
    image[0, 0, 0], image[1, 0, 0] = -3000, 3000
    cubes, border = cu.cut_cubes(image, SMALL, np.random.default_rng(0))
    assert border == (0, 0, 0)
    assert cubes[0, 0, 0, 0] == 0 and cubes[0, 0, 0, 1] == 1 and cubes[0, 4, 4, 4] == 0.25
    mri, _ = cu.cut_cubes(image, cu.CubeSettings(**{**vars(SMALL), "hu_range": None}), np.random.default_rng(0))
    assert mri.min() == 0 and mri.max() == 1


def test_settings_say_all_faults() -> None:
    with pytest.raises(cu.CubeError, match=r"border .*hu_range .*tissue_max 2"):
        cu.CubeSettings(border=(-1, 0, 0), hu_range=(1.0, 0.0), tissue_max=2)
    with pytest.raises(cu.CubeError, match="switch it off for MRI"):
        cu.CubeSettings(hu_range=None)


def test_folders_become_fold_files(tmp_path: Path) -> None:
    """LUNA16's layout with MetaImage and NIfTI; bad and small scans cost no other."""
    rng = np.random.default_rng(0)
    write_scan(tmp_path / "luna/subset0/a.mhd", rng.uniform(-1000, 500, (14, 16, 20)))
    write_scan(tmp_path / "luna/subset0/tiny.nii.gz", np.zeros((3, 16, 20)))
    write_scan(tmp_path / "luna/subset4/b.nii.gz", rng.uniform(-1000, 500, (12, 16, 20)))
    (tmp_path / "luna/subset4/broken.nii.gz").write_bytes(b"nothing")
    lines: list[str] = []
    report = cu.generate_cubes(tmp_path / "luna", tmp_path / "out", SMALL, say=lines.append)
    assert [path.name for path in report.files] == ["bat_4_s_8x6x5_0.npy", "bat_4_s_8x6x5_4.npy"]
    assert report.cubes == 8 and len(report.failed) == 2
    assert any(line.startswith("tiny: no cubes, it is (3, 16, 20) voxels") for line in lines)
    assert any("b: border (3, 2, 1) instead of (3, 2, 4)" in line for line in lines)
    first = np.array(cu.open_cubes(report.files[0]))
    assert first.shape == (4, 8, 6, 5) and first.dtype == np.float32

    again = cu.generate_cubes(tmp_path / "luna", tmp_path / "out", SMALL, say=lines.append)
    assert again.cubes == 0 and lines[-1] == "bat_4_s_8x6x5_4.npy: already there with 4 cubes, kept"
    other = cu.generate_cubes(tmp_path / "luna", tmp_path / "other", SMALL, say=lines.append)
    np.testing.assert_array_equal(cu.open_cubes(other.files[0]), first)
    assert cu.find_cubes(tmp_path / "out", [4, 0]) == [report.files[1], report.files[0]]
    with pytest.raises(cu.CubeError, match=r"not so for \[3\]"):
        cu.find_cubes(tmp_path / "out", [0, 3])


def test_a_scan_without_cubes_is_one_line(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans/soft.nii.gz", np.full((12, 16, 20), 40.0))
    lines: list[str] = []
    settings = cu.CubeSettings(cube_size=(8, 6, 5), scale=2, border=(0, 0, 0))
    report = cu.generate_cubes(tmp_path / "scans", tmp_path / "out", settings, say=lines.append)
    assert report.files == () and not list((tmp_path / "out").iterdir())
    assert lines[0].startswith("soft: no cubes, none of 200 places passed the tissue filter; switch it off")
    assert lines[1] == "bat_2_s_8x6x5_0.npy: 0 cubes of 1 scans, not written"
    with pytest.raises(cu.CubeError, match="holds no scan"):
        cu.generate_cubes(tmp_path / "nowhere", tmp_path / "out", settings)


def test_published_files_are_read(tmp_path: Path) -> None:
    cubes = np.random.default_rng(0).random((3, 64, 64, 32))
    path = tmp_path / "bat_32_s_64x64x32_7.npy"
    np.save(path, cubes[:, None])
    opened = cu.open_cubes(path)
    assert isinstance(opened, np.memmap) and opened.shape == (3, 64, 64, 32)
    patch = cu.read_cube(opened, 1)
    assert patch.shape == (1, 32, 64, 64) and patch.dtype == np.float32 and patch.flags.c_contiguous
    assert patch[0, 3, 4, 5] == np.float32(cubes[1, 5, 4, 3])
    with pytest.raises(cu.CubeError, match="not within"):
        cu.read_cube(cubes * 2, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}], dtype=object), "no cube file"),
        (np.zeros((2, 4, 4), np.float32), "cubes are"),
        (np.zeros((2, 64, 64, 32), np.int16), "array of floats"),
        (np.zeros((2, 64, 32, 64), np.float32), "its name says otherwise"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: np.ndarray, message: str) -> None:
    path = tmp_path / "bat_32_s_64x64x32_0.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(cu.CubeError, match=message):
        cu.open_cubes(path)
    with pytest.raises(cu.CubeError, match="does not exist"):
        cu.open_cubes(tmp_path / "bat_32_s_64x64x32_1.npy")


def test_stored_intensities_to_unit() -> None:
    known = [Intensity(shift=0, scale=1, low=-2.0, high=2.0), Intensity(shift=0, scale=1, low=3.0, high=3.0)]
    image = np.array([[-3.0, 0.0, 1.0], [3.0, 3.5, 2.0], [0.0, 1.0, 1.0]], np.float32).reshape(3, 1, 1, 3)
    unit = cu.to_unit(image, known)
    np.testing.assert_allclose(unit.reshape(3, 3), [[0, 0.5, 0.75], [0, 0.5, 0], [0, 1, 1]])
    assert image[0, 0, 0, 0] == -3
    with pytest.raises(cu.CubeError, match="records 2 channels, the image has 1"):
        cu.to_unit(image[:1], known)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_real_scans_give_no_lung_cubes_but_many_without_the_filter() -> None:
    from cases.volumes import read_volume

    image, _ = read_volume([SHARED / "data/ct_unlabelled/thorax_3mm.nii.gz"])
    settings = cu.CubeSettings(scale=4, attempts=10)
    assert len(cu.cut_cubes(image[0], settings, np.random.default_rng(0))[0]) == 0
    cubes, _ = cu.cut_cubes(image[0], cu.CubeSettings(scale=4, tissue_filter=False), np.random.default_rng(0))
    assert cubes.shape == (4, 64, 64, 32) and 0 <= cubes.min() < cubes.max() <= 1
