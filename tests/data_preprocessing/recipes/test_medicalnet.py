import nibabel
import numpy as np
import pytest
from scipy import ndimage

import preprocess
from cases.case import open_array, read_info
from cases.plan import Plan
from cases.volumes import write_volume
from data_preprocessing.layouts import read_dataset
from data_preprocessing.layouts.dataset import DatasetError, Scan, read_scan
from data_preprocessing.layouts.img_list import read_img_list
from data_preprocessing.recipes.medicalnet import resize_nearest, standardise, training_box

SIZE = (14, 24, 40)


def scan_with_border():
    """(12, 16, 20) with 7 as border, zeros and positive values inside; a target of (3, 4, 5) voxels."""
    rng = np.random.default_rng(0)
    image = np.full((1, 12, 16, 20), 7, np.float32)
    image[0, 1:11, 2:15, 3:19] = rng.integers(0, 3, (10, 13, 16)) * 50
    label = np.zeros((1, 12, 16, 20), np.uint8)
    label[0, 5:8, 6:10, 9:14] = 2
    label[0, 5, 6, 9] = 1
    return image, label


def test_resizing_is_scipys_zoom_of_order_0():
    array = np.random.default_rng(1).random((2, 12, 16, 20))
    for shape in ((14, 24, 40), (7, 16, 11), (1, 20, 20)):
        factors = [1, *(new / old for new, old in zip(shape, array.shape[1:], strict=True))]
        np.testing.assert_array_equal(resize_nearest(array, shape), ndimage.zoom(array, factors, order=0))


def test_border_goes_and_the_target_keeps_random_room():
    image, label = scan_with_border()
    boxes = [training_box(image, label, np.random.default_rng(seed)) for seed in range(300)]
    starts, ends = np.array([box[0] for box in boxes]), np.array([box[1] for box in boxes])
    assert starts.min(axis=0).tolist() == [4, 4, 7]  # half of 3, 4 and 5 voxels more, at most
    assert starts.max(axis=0).tolist() == [5, 6, 9]
    assert ends.min(axis=0).tolist() == [8, 10, 14]
    assert ends.max(axis=0).tolist() == [9, 12, 16]
    assert training_box(image, None, np.random.default_rng(0)) == ((1, 2, 3), (11, 15, 19))


def test_standardised_by_voxels_above_0_with_noise_for_zeros():
    image, _ = scan_with_border()
    out, shift, scale = standardise(image[0], np.random.default_rng(0))
    above = image[0][image[0] > 0]
    assert (shift, scale) == (pytest.approx(above.mean()), pytest.approx(above.std()))
    np.testing.assert_allclose(out[image[0] > 0], (above - shift) / scale, rtol=1e-5)
    noise = out[image[0] == 0]
    assert len(noise) > 500
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.1)
    empty, shift, scale = standardise(np.zeros((2, 3, 4), np.float32), np.random.default_rng(0))
    assert (shift, scale) == (0, 1)
    assert np.isfinite(empty).all()


@pytest.fixture
def listed(tmp_path):
    """Five depth-first files, in a list of images and labels."""
    image, label = scan_with_border()
    lines = []
    affine = np.diag([4.0, 1.0, 0.5, 1.0])
    for folder in ("images", "labels"):
        (tmp_path / "brains" / folder).mkdir(parents=True)
    for index in range(5):
        for folder, array in (("images", image + index), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array[0], affine), tmp_path / "brains" / folder / f"{index}.nii.gz")
        lines.append(f"images/{index}.nii.gz labels/{index}.nii.gz\n")
    path = tmp_path / "brains" / "train.txt"
    path.write_text("".join(lines) + "\n")
    return path


def run(path, results, *flags):
    return preprocess.main(["--dataset", str(path), "--results", str(results), "--n_jobs", "1", *flags])


def test_a_list_becomes_cases_of_one_size(listed, tmp_path):
    flags = ["--recipe", "medicalnet", "--patch_size", *map(str, SIZE)]
    assert run(listed, tmp_path, *flags) == 0
    folder = tmp_path / "brains_train_3d"
    plan = Plan.load(folder)
    assert (plan.recipe, plan.patch_size, plan.labels) == ("medicalnet", SIZE, ("background", "class 1", "class 2"))
    image, label = scan_with_border()
    info = read_info(folder, "3")
    assert info.geometry.shape_dhw == (12, 16, 20)  # the file's first axis is the depth
    assert info.geometry.spacing_mm == (4.0, 1.0, 0.5)
    (d0, h0, w0), (d1, h1, w1) = info.crop_box
    cut = label[:, d0:d1, h0:h1, w0:w1]
    np.testing.assert_array_equal(open_array(folder, "3", "orig_y"), cut)
    np.testing.assert_array_equal(open_array(folder, "3", "y"), resize_nearest(cut, SIZE))
    stored = open_array(folder, "3", "x")
    assert stored.shape == (1, *SIZE)
    inside = resize_nearest(image + 3, (12, 16, 20))[:, d0:d1, h0:h1, w0:w1]
    shift, scale = info.intensity[0].shift, info.intensity[0].scale
    np.testing.assert_allclose(stored * scale + shift, resize_nearest(inside, SIZE), atol=1e-3)  # no zeros in case 3

    assert run(listed, tmp_path, *flags, "--exec_mode", "val") == 0
    assert read_info(folder / "val", "3").crop_box == ((0, 0, 0), (12, 16, 20))
    before = stored.copy()
    assert run(listed, tmp_path / "again", *flags) == 0
    np.testing.assert_array_equal(open_array(tmp_path / "again" / "brains_train_3d", "3", "x"), before)


def test_files_whose_depth_comes_last_are_warned_of(listed, tmp_path, capsys):
    assert run(listed, tmp_path, "--recipe", "medicalnet", "--patch_size", *map(str, SIZE)) == 0
    assert "warning" not in capsys.readouterr().out
    image, label = scan_with_border()
    for folder, array in (("images", image), ("labels", label)):
        turned = nibabel.Nifti1Image(array[0, :6].transpose(2, 1, 0), np.diag([0.5, 1.0, 4.0, 1.0]))
        nibabel.save(turned, listed.parent / folder / "3.nii.gz")
    assert run(listed, tmp_path / "turned", "--recipe", "medicalnet", "--patch_size", *map(str, SIZE)) == 0
    out = capsys.readouterr().out
    assert "warning: 1 of 5 scans look as if their depth came last, such as 20 x 16 x 6 voxels of 0.5 x 1 x 4 mm" in out
    assert "store them depth first, or leave --recipe out" in out


def test_a_list_with_the_default_recipe(listed, tmp_path):
    assert run(listed, tmp_path, "--patch_size", "8", "16", "16") == 0
    plan = Plan.load(tmp_path / "brains_train_3d")
    assert (plan.recipe, plan.patch_size) == ("default", (8, 16, 16))
    assert read_info(tmp_path / "brains_train_3d", "3").geometry.shape_dhw == (20, 16, 12)


def test_recipes_are_not_mixed(listed, tmp_path, capsys):
    assert run(listed, tmp_path) == 0
    assert run(listed, tmp_path, "--recipe", "medicalnet", "--exec_mode", "val") == 1
    assert "is of --recipe default; preprocess both alike" in capsys.readouterr().err


def test_depth_first_files_are_written_as_they_were_read(listed, tmp_path):
    source = listed.parent / "images" / "2.nii.gz"
    image, geometry, _ = read_scan(Scan(case="2", images=(source,)), depth_first=True)
    expected, _ = scan_with_border()
    np.testing.assert_array_equal(image, expected + 2)
    write_volume(tmp_path / "copy.nii.gz", image[0], geometry)
    copy, original = nibabel.load(tmp_path / "copy.nii.gz"), nibabel.load(source)
    np.testing.assert_array_equal(copy.get_fdata(), original.get_fdata())
    np.testing.assert_allclose(copy.affine, original.affine)
    assert geometry.turned().turned() == geometry
    assert geometry.mismatch(geometry) is None


def test_bad_lists_are_named(listed, tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere.txt is no image list"):
        read_img_list(tmp_path / "nowhere.txt")
    bad = tmp_path / "bad.txt"
    bad.write_text("a.nii.gz b.nii.gz\nthree words here\n")
    with pytest.raises(DatasetError, match=r"bad.txt, line 2: \"three words here\" is not such as"):
        read_img_list(bad)
    bad.write_text("\n\n")
    with pytest.raises(DatasetError, match="lists no scans"):
        read_dataset(bad)
    bad.write_text("x/1.nii.gz y/1.nii.gz\nz/1.nii.gz y/2.nii.gz\n")
    with pytest.raises(DatasetError, match="images 1 are listed more than once"):
        read_img_list(bad)


def test_a_missing_file_of_a_list_costs_no_other_case(listed, tmp_path, capsys):
    (listed.parent / "labels" / "1.nii.gz").unlink()
    assert run(listed, tmp_path, "--recipe", "medicalnet", "--patch_size", *map(str, SIZE)) == 1
    assert "labels/1.nii.gz does not exist" in capsys.readouterr().err
    assert Plan.load(tmp_path / "brains_train_3d").n_class == 3
    assert read_info(tmp_path / "brains_train_3d", "4").shape_stored == SIZE
