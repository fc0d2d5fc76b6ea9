import gc
import threading
import time
import weakref
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases.case import write_case
from cases.plan import Normalization, Plan
from cases.volumes import Geometry, VolumeError, read_label, write_volume
from data_preprocessing.preprocessor import prepare
from inference import predict as predict_module
from inference.predict import PredictSettings, predict_case, predict_scans, predict_stored
from inference.restore import Prediction
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


@pytest.mark.parametrize("inference_mode", [False, True])
def test_weights_are_cast_once_a_case(tmp_path, image, inference_mode):
    """Autocast keeps a weight that it has cast while it is entered, though not in inference mode."""
    prepared = prepare(image[None], GEOMETRY, PLAN, case="a", pad=False)
    network = torch.nn.Conv3d(1, 2, 1, bias=False)
    settings = PredictSettings(
        windows=SlidingWindow(patch_size=(8, 8, 16), batch_size=1),
        flip_axes=(0, 1),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    casts = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in (torch.ops.aten.to, torch.ops.aten._to_copy) and args[0] is network.weight:
                casts.append(func)
            return func(*args, **(kwargs or {}))

    with Watch(), torch.inference_mode(inference_mode):
        predict_case(prepared.image_cdhw, prepared.info, network, settings)
    assert len(casts) == 1


@pytest.fixture
def made_up_gpu(monkeypatch):
    """Cases take the way of a GPU, computed on the CPU."""
    launched = predict_module.launch_case
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(predict_module, "settled", lambda image, device: image)
    monkeypatch.setattr(predict_module, "launch_case", lambda *args, device: launched(*args))
    return torch.device("cuda", 0)


def test_a_gpu_has_the_next_case_while_one_is_looked_at(tmp_path, image, made_up_gpu):
    """The same files and messages in the same order, faults with their own case, and the network one case ahead."""
    for case in "abcde":
        content = np.full_like(image, 10) if case == "b" else image
        prepared = prepare(content[None], GEOMETRY, PLAN, case=case, pad=False)
        write_case(tmp_path, prepared.info, prepared.image_cdhw)
    (tmp_path / "d_x.npy").unlink()
    asked = []

    def predictor(windows):
        asked.append(threading.current_thread().name)
        if windows.max() <= 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return brightness(windows)

    settings = replace(SETTINGS, windows=SlidingWindow(patch_size=(8, 8, 16), batch_size=1000), flip_axes=())
    slow = predict_stored(tmp_path, list("abcde"), predictor, settings, tmp_path / "cpu")
    expected = list(slow)
    asked.clear()
    outcomes = []
    for outcome in predict_stored(tmp_path, list("abcde"), predictor, settings, tmp_path / "gpu", device=made_up_gpu):
        outcomes.append(outcome)
        if outcome.case == "a":
            for _ in range(200):
                if len(asked) == 2:
                    break
                time.sleep(0.01)
            assert len(asked) == 2  # b has begun, though nobody has asked for it, and c has not
    assert [(o.case, o.fault) for o in outcomes] == [(o.case, o.fault) for o in expected]
    assert len(set(asked)) == 1  # cuDNN and autocast keep what they know by thread
    assert asked[0] != threading.current_thread().name
    for case in "ace":
        assert (tmp_path / f"gpu/{case}.npy").read_bytes() == (tmp_path / f"cpu/{case}.npy").read_bytes()
        assert (tmp_path / f"gpu/{case}.nii.gz").is_file()
    assert len(list((tmp_path / "gpu").iterdir())) == 6


@pytest.mark.parametrize("gpu", [False, True])
def test_images_and_predictions_are_let_go(tmp_path, image, made_up_gpu, monkeypatch, gpu):
    prepared = prepare(image[None], GEOMETRY, PLAN, case="a", pad=False)
    living: dict[str, weakref.WeakSet] = {"images": weakref.WeakSet(), "predictions": weakref.WeakSet()}
    most = dict.fromkeys(living, 0)

    class Tracked(np.ndarray):
        """An array that can be referred to weakly and put into a set."""

        __hash__ = object.__hash__

    def track(kind, array):
        gc.collect()
        tracked = array.copy().view(Tracked)
        living[kind].add(tracked)
        most[kind] = max(most[kind], len(living[kind]))
        return tracked

    real = predict_module.launch_case

    def launch(*args, **device):
        finish = real(*args, **device)
        labels = track("predictions", finish().labels_dhw)
        return lambda: Prediction(labels, None)

    monkeypatch.setattr(predict_module, "launch_case", launch)
    monkeypatch.setattr(predict_module, "open_array", lambda *_: track("images", prepared.image_cdhw))
    monkeypatch.setattr(predict_module, "read_info", lambda _, case: replace(prepared.info, case=case))
    device = made_up_gpu if gpu else torch.device("cpu")
    done = predict_stored(tmp_path, list("abcdef"), brightness, SETTINGS, tmp_path / "out", device=device)
    assert [outcome.fault for outcome in done] == [None] * 6
    assert most["images"] == 2
    assert most["predictions"] <= (2 if gpu else 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_labels_of_the_gpu_are_the_cpus(tmp_path, image):
    for case in "abc":
        prepared = prepare(np.roll(image, ord(case), 2)[None], GEOMETRY, PLAN, case=case, pad=False)
        write_case(tmp_path, prepared.info, prepared.image_cdhw)
    for device in ("cpu", "cuda"):
        done = list(predict_stored(tmp_path, list("abc"), brightness, SETTINGS, tmp_path / device, device=device))
        assert [outcome.fault for outcome in done] == [None] * 3
    for case in "abc":
        here, there = (read_label(tmp_path / device / f"{case}.nii.gz")[0] for device in ("cpu", "cuda"))
        assert (here != there).mean() < 1e-3  # ties that rounding decides
        here, there = (np.load(tmp_path / device / f"{case}.npy").astype(np.float32) for device in ("cpu", "cuda"))
        assert np.abs(here - there).max() < 2e-3
