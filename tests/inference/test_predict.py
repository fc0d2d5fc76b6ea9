import numpy as np
import pytest
import torch

from cases.case import write_case
from cases.plan import Normalization, Plan
from cases.volumes import Geometry, VolumeError, read_label, write_volume
from data_preprocessing.preprocessor import prepare
from inference.predict import PredictSettings, predict_scans, predict_stored
from inference.scans import input_scans
from inference.sliding_window import SlidingWindow

AFFINE = np.array([[0.0, -1.2, 0, 5], [1.0, 0, 0, -9], [0, 0, 2.0, 3], [0, 0, 0, 1]])
GEOMETRY = Geometry.of((12, 16, 20), (2.0, 1.2, 1.0), AFFINE)
PLAN = Plan(
    name="x_3d", dataset="x", dim=3, channels=("CT",), labels=("background", "bright"), spacing_mm=(1.5, 1.0, 1.0),
    patch_size=(8, 8, 16), normalization=(Normalization(scheme="ct", lower=0, upper=100, mean=50, std=10),),
)  # fmt: skip
SETTINGS = PredictSettings(windows=SlidingWindow(patch_size=(8, 8, 16)), flip_axes=(2,), keep_probabilities=True)


def brightness(windows: torch.Tensor) -> torch.Tensor:
    return torch.cat([-windows, windows], dim=1)


@pytest.fixture
def image():
    values = np.full((12, 16, 20), 10, np.float32)
    values[3:9, 4:12, 5:15] = 90
    return values


def test_raw_scans_come_back_on_their_own_grid(tmp_path, image):
    scans, results = tmp_path / "scans", tmp_path / "results"
    scans.mkdir()
    write_volume(scans / "good.nii.gz", image, GEOMETRY)
    write_volume(scans / "other.mha", image, GEOMETRY)
    (scans / "damaged.nii.gz").write_bytes(b"not an image")
    outcomes = {o.case: o for o in predict_scans(input_scans(scans), PLAN, brightness, SETTINGS, results)}
    assert sorted(outcomes) == ["damaged", "good", "other"]
    assert "damaged.nii.gz" in outcomes["damaged"].fault
    for case in ("good", "other"):
        assert outcomes[case].fault is None
        label, geometry = read_label(outcomes[case].path)
        assert outcomes[case].path == results / f"{case}.nii.gz"
        assert GEOMETRY.mismatch(geometry) is None
        truth = image > 50
        assert 2 * (truth & (label[0] == 1)).sum() / (truth.sum() + label.sum()) > 0.9
        probabilities = np.load(results / f"{case}.npy")
        assert probabilities.shape == (2, 12, 16, 20)
        assert np.array_equal(probabilities.argmax(0), label[0])
    assert sorted(path.name for path in results.iterdir()) == ["good.nii.gz", "good.npy", "other.nii.gz", "other.npy"]


def test_preprocessed_cases_give_what_raw_scans_give(tmp_path, image):
    case = prepare(image[None], GEOMETRY, PLAN, case="a", pad=False)
    write_case(tmp_path, case.info, case.image_cdhw)
    write_volume(tmp_path / "a.nii.gz", image, GEOMETRY)
    (raw,) = predict_scans(input_scans(tmp_path / "a.nii.gz"), PLAN, brightness, SETTINGS, tmp_path / "raw")
    stored, missing = predict_stored(tmp_path, ["a", "b"], brightness, SETTINGS, tmp_path / "stored")
    assert np.array_equal(read_label(raw.path)[0], read_label(stored.path)[0])
    assert "b_x.npy does not exist" in missing.fault


def test_a_scan_too_large_for_the_memory_costs_no_other_one(tmp_path, image):
    for case in "abc":
        content = np.full_like(image, 10) if case == "b" else image
        prepared = prepare(content[None], GEOMETRY, PLAN, case=case, pad=False)
        write_case(tmp_path, prepared.info, prepared.image_cdhw)

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        if windows.max() <= 0:  # nothing bright: it is b
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return brightness(windows)

    settings = PredictSettings(windows=SlidingWindow(patch_size=(8, 8, 16), batch_size=1000))
    done = list(predict_stored(tmp_path, ["a", "b", "c"], predictor, settings, tmp_path / "out"))
    assert [outcome.path is None for outcome in done] == [False, True, False]
    assert "b: not enough memory" in done[1].fault


def test_channels_of_one_scan_are_found_from_one_of_them(tmp_path):
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"):
        (tmp_path / name).touch()
    folder = [(scan.case, len(scan.images)) for scan in input_scans(tmp_path, channels=2)]
    (one,) = input_scans(tmp_path / "b_0001.nii.gz", channels=2)
    assert folder == [("a", 2), ("b", 2)]
    assert (one.case, [path.name for path in one.images]) == ("b", ["b_0000.nii.gz", "b_0001.nii.gz"])


def test_a_folder_of_slices_is_one_scan(tmp_path):
    folder = tmp_path / "patient"
    folder.mkdir()
    (folder / "1.dcm").touch()
    assert [(scan.case, scan.images) for scan in input_scans(folder)] == [("patient", (folder,))]


def test_nothing_to_predict_is_told(tmp_path):
    with pytest.raises(VolumeError, match="holds no scans"):
        input_scans(tmp_path)
    with pytest.raises(VolumeError, match="does not exist"):
        input_scans(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(VolumeError, match="no image file"):
        input_scans(tmp_path / "a.txt")
