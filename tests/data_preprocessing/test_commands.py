"""Users' own formats, layouts, normalisations and recipes from the command line; nothing of them stands in the tree."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cases.case import list_cases, open_array, read_info
from cases.plan import Plan
from cases.registry import RegistryError
from cases.volumes import use_formats
from data_preprocessing.phantom import Phantom, draw, write_dataset
from data_preprocessing.preprocessor import prepare
from inference.predict import PredictSettings, predict_scans
from preprocess import main

SMALL = Phantom(shape_dhw=(12, 16, 20))

FORMAT = """
import numpy as np

from cases.volumes.format import Format
from cases.volumes.geometry import Geometry


class Numpy(Format):
    suffixes = (".npz",)

    def read(self, path):
        with np.load(path) as content:
            array = content["image"]
        return array[None], Geometry.of(array.shape, (2.0, 1.0, 0.5), np.diag([0.5, 1.0, 2.0, 1.0]))
"""

LAYOUT = """
from data_preprocessing.layouts.dataset import Dataset, Scan


class Patients:
    def recognises(self, path):
        return any(path.glob("*/scan.nii.gz"))

    def read(self, path):
        folders = sorted(path.glob("patient_*"))
        scans = [Scan(case=f.name, images=(f / "scan.nii.gz",), label=f / "organ.nii.gz") for f in folders]
        names = ("background", "organ", "lesion")
        return Dataset(name="Patients", channels=("MRI",), labels=names, training=tuple(scans), test=())


class Nothing(Patients):
    def read(self, path):
        return None


class Twice(Patients):
    def read(self, path):
        whole = super().read(path)
        return Dataset(**{**vars(whole), "training": whole.training * 2})


class Broken(Patients):
    def read(self, path):
        return [][0]
"""

SCHEME = """
import numpy as np

from data_preprocessing.normalizations.scheme import Scheme


class Halved(Scheme):
    def normalize(self, channel_dhw, how):
        return channel_dhw / np.float32(2), 0.0, 2.0


class Ranged(Scheme):
    statistics = True

    def normalize(self, channel_dhw, how):
        scale = how.upper - how.lower
        return (channel_dhw - np.float32(how.lower)) / np.float32(scale), how.lower, scale


class Broken(Scheme):
    def normalize(self, channel_dhw, how):
        return {}["mean"]


class Longer(Scheme):
    def normalize(self, channel_dhw, how):
        return np.zeros((1, 2, 3)), 0.0, 1.0
"""

RECIPE = """
from data_preprocessing.recipes.default import Default


class Upside(Default):
    def describe(self, plan):
        return "upside down"

    def prepare(self, scan, plan, *, train):
        scan.image_cdhw[:] = scan.image_cdhw[:, ::-1].copy()
        return super().prepare(scan, plan, train=train)


class Broken(Default):
    def prepare(self, scan, plan, *, train):
        return None
"""


@pytest.fixture
def own(tmp_path, request):
    """A file of the user's, of a name that no other test uses; gone from the interpreter afterwards."""
    folder = tmp_path / "own"
    folder.mkdir()

    def write(text):
        path = folder / f"own_{request.node.originalname[5:25]}.py"
        path.write_text(text)
        return path

    yield write
    use_formats(())
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "mine", SMALL, cases=2, test_cases=1)
    return tmp_path / "mine"


def run(dataset, *flags, n_jobs=1):
    argv = ["--dataset", str(dataset), "--results", str(dataset.parent), "--n_jobs", str(n_jobs), *map(str, flags)]
    try:
        return main(argv)
    except SystemExit as usage:
        return usage.code


def test_a_format_of_the_users_in_several_processes(own, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for index in range(2):
        np.savez(folder / f"case_{index}.npz", image=draw(SMALL, index)[0][0])
    assert run(folder) == 1  # nobody reads .npz
    assert run(folder, "--formats", f"{own(FORMAT)}:Numpy", n_jobs=2) == 0
    assert list_cases(tmp_path / "scans_3d") == ["case_0", "case_1"]
    assert read_info(tmp_path / "scans_3d", "case_0").geometry.spacing_mm == (2.0, 1.0, 0.5)
    assert (
        main(
            f"--exec_mode cubes --dataset {folder} --results {tmp_path} --formats {own(FORMAT)}:Numpy "
            "--cube_size 8 8 8 --modality MRI --scale 2 --cube_folds 1".split()
        )
        == 0
    )
    assert np.load(tmp_path / "scans_cubes" / "bat_2_s_8x8x8_0.npy").shape == (4, 8, 8, 8)


def test_a_layout_of_the_users(own, tmp_path, capsys):
    write_dataset(tmp_path / "source", SMALL, cases=2)
    for index in range(2):
        folder = tmp_path / "mine" / f"patient_{index}"
        folder.mkdir(parents=True)
        for part, name in (("imagesTr", "scan"), ("labelsTr", "organ")):
            (tmp_path / "source" / part / f"phantom_{index:03d}.nii.gz").rename(folder / f"{name}.nii.gz")
    file = own(LAYOUT)
    assert run(tmp_path / "mine", "--layout", f"{file}:Patients") == 0
    assert list_cases(tmp_path / "Patients_3d") == ["patient_0", "patient_1"]
    assert Plan.load(tmp_path / "Patients_3d").labels == ("background", "organ", "lesion")
    capsys.readouterr()
    for name, message in {
        "Nothing": "returned a NoneType, not a Dataset",
        "Twice": "lists cases patient_0, patient_1 more than once",
        "Broken": "cannot read it (IndexError: list index out of range)",
    }.items():
        assert run(tmp_path / "mine", "--layout", f"{file}:{name}") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
    assert run(tmp_path / "mine", "--layout", f"{file}:Pacients") == 2
    assert "defines no Pacients; did you mean Patients" in capsys.readouterr().err
    assert run(tmp_path / "mine", "--layout", "decathlom") == 2
    assert "none of img_list, nnunet_v2, decathlon, brats, folder" in (err := capsys.readouterr().err)
    assert "did you mean decathlon" in err


def test_a_layout_of_the_table_by_name(dataset, tmp_path, capsys):
    assert run(dataset, "--layout", "decathlon") == 0
    assert run(dataset / "imagesTr", "--layout", "nnunet_v2") == 1
    assert "has no dataset.json, which names channels and labels" in capsys.readouterr().err


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_normalisation_of_the_users(own, dataset, tmp_path, n_jobs):
    file = own(SCHEME)
    assert run(dataset, "--normalization", f"{file}:Halved", n_jobs=n_jobs) == 0
    folder = tmp_path / "mine_3d"
    plan = Plan.load(folder)
    assert plan.normalization[0].scheme == f"{file.stem}:Halved"  # neither a path nor code
    raw = draw(SMALL, 0)[0]
    assert read_info(folder, "phantom_000").intensity[0].scale == 2.0
    assert open_array(folder, "phantom_000", "x").max() == raw.max() / 2
    assert run(dataset, "--normalization", f"{file}:Halved", "--exec_mode", "val") == 0
    assert run(dataset, "--exec_mode", "val") == 1  # the plan alone does not run it


def test_a_normalisation_of_the_users_gets_the_datasets_numbers(own, dataset, tmp_path):
    assert run(dataset, "--normalization", f"{own(SCHEME)}:Ranged") == 0
    how = Plan.load(tmp_path / "mine_3d").normalization[0]
    assert how.lower < how.mean < how.upper and how.std > 0
    known = read_info(tmp_path / "mine_3d", "phantom_000").intensity[0]
    assert (known.shift, known.scale) == (how.lower, how.upper - how.lower)


def test_bad_normalisations_are_named_with_each_case(own, dataset, capsys):
    file = own(SCHEME)
    for name, message in {
        "Broken": f"--normalization {file.stem}:Broken failed (KeyError: 'mean')",
        "Longer": f"--normalization {file.stem}:Longer made shape (1, 2, 3) of",
    }.items():
        assert run(dataset, "--normalization", f"{file}:{name}") == 1
        assert message in capsys.readouterr().err
    assert run(dataset, "--normalization", f"{file}:np") == 2
    assert "is no normalization: it has no statistics, keeps_zero, normalize" in capsys.readouterr().err
    assert run(dataset, "--recipe", "medicalnet", "--normalization", "zscore") == 1
    assert "--recipe medicalnet has its own normalisation" in capsys.readouterr().err


def test_a_recipe_of_the_users(own, dataset, tmp_path, capsys):
    assert run(dataset) == 0
    usual = open_array(tmp_path / "mine_3d", "phantom_001", "x").copy()
    file = own(RECIPE)
    assert run(dataset, "--recipe", f"{file}:Upside") == 0
    assert "Plan mine_3d: upside down" in capsys.readouterr().out
    assert Plan.load(tmp_path / "mine_3d").recipe == f"{file.stem}:Upside"
    np.testing.assert_allclose(open_array(tmp_path / "mine_3d", "phantom_001", "x").mean(), usual.mean(), atol=1e-3)
    assert run(dataset, "--recipe", f"{file}:Broken") == 1
    assert f"--recipe {file.stem}:Broken made a NoneType, not a PreparedCase" in capsys.readouterr().err


def test_a_plan_with_own_code_is_followed_only_with_the_flag(own, dataset, tmp_path):
    file = own(SCHEME)
    assert run(dataset, "--normalization", f"{file}:Halved") == 0
    plan = Plan.load(tmp_path / "mine_3d")
    image, _, geometry = draw(SMALL, 0)
    with pytest.raises(RegistryError, match=r"a file alone does not start: give --normalization with the file"):
        prepare(image, geometry, plan, case="a", pad=False)
    with pytest.raises(RegistryError, match=r"a file alone does not start"):  # once, not for every scan
        predict_scans([], plan, lambda windows: windows, PredictSettings(windows=None), Path(tmp_path))
    prepared = prepare(image, geometry, plan, case="a", pad=False, own=(f"{file}:Halved",))
    assert prepared.image_cdhw.max() == image.max() / 2
