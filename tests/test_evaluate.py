import json

import numpy as np
import pytest
import torch

import evaluate
from cases.case import write_case
from cases.plan import Normalization, Plan
from cases.regions import brats_regions, write_regions
from cases.volumes import Geometry, write_volume
from data_preprocessing.preprocessor import prepare
from inference.pairs import EvaluationError

GEOMETRY = Geometry.of((12, 16, 20), (1.0, 2.0, 3.0), np.diag([3.0, 2.0, 1.0, 1.0]))


@pytest.fixture
def folders(tmp_path):
    preds, labels = tmp_path / "preds", tmp_path / "labelsTr"
    preds.mkdir()
    labels.mkdir()
    names = {"0": "background", "1": "liver", "2": "tumour"}
    listed = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}, "labels": names, "training": listed}))
    return preds, labels


def label_map(shift=0, tumour=True):
    label = np.zeros((12, 16, 20), np.uint8)
    label[2:6, 2:6, 2 + shift : 6 + shift] = 1
    if tumour:
        label[8:10, 8:10, 8:10] = 2
    return label


def run(preds, labels, *flags):
    return evaluate.main(["--preds", str(preds), "--lbls", str(labels), "--n_jobs", "1", *flags])


def test_table_metrics_and_pictures(folders, capsys):
    preds, labels = folders
    for case, shift in (("a", 0), ("b", 1), ("c", 2)):
        write_volume(labels / f"{case}.nii.gz", label_map(tumour=case != "c"), GEOMETRY)
        write_volume(preds / f"{case}.nii.gz", label_map(shift, tumour=False), GEOMETRY)
    assert run(preds, labels) == 0
    report = json.loads((preds / "metrics.json").read_text())
    liver = report["classes"]["liver"]["dice"]
    assert liver["mean"] == pytest.approx((1 + 0.75 + 0.5) / 3, abs=1e-6)
    assert liver["std"] == pytest.approx(np.std([1, 0.75, 0.5]), abs=1e-6)
    assert report["cases"]["c"]["liver"]["hd95_mm"] == pytest.approx(6)
    assert report["cases"]["c"]["tumour"]["dice"] is None
    assert report["classes"]["tumour"]["dice"] == {"mean": 0, "std": 0, "cases": 2}
    assert report["mean"]["dice"]["mean"] == pytest.approx((0.5 + 0.375 + 0.5) / 3, abs=1e-6)
    shown = capsys.readouterr().out
    assert "liver" in shown
    assert "0.7500" in shown
    for name in ("best", "median", "worst"):
        assert (preds / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_bad_cases_cost_no_good_one(folders, capsys):
    preds, labels = folders
    for case in ("good", "shape", "affine", "value", "damaged"):
        write_volume(labels / f"{case}.nii.gz", label_map(), GEOMETRY)
    write_volume(preds / "good.nii.gz", label_map(), GEOMETRY)
    moved = Geometry.of((12, 16, 20), (1.0, 2.0, 3.0), np.diag([-3.0, 2.0, 1.0, 1.0]))
    write_volume(preds / "affine.nii.gz", label_map(), moved)
    write_volume(preds / "value.nii.gz", label_map() * 3, GEOMETRY)
    write_volume(preds / "alone.nii.gz", label_map(), GEOMETRY)
    np.save(preds / "shape.npy", label_map().T)
    (preds / "damaged.nii.gz").write_bytes(b"nothing")
    assert run(preds, labels, "--results", str(preds / "out")) == 1
    lines = capsys.readouterr().err.splitlines()
    expected = {
        "shape.npy": "has shape (20, 16, 12)",
        "affine.nii.gz": "affines differ",
        "value.nii.gz": "holds class 6",
        "alone.nii.gz": "has no label",
        "damaged.nii.gz": "damaged",
    }
    assert len(lines) == len(expected)
    for name, words in expected.items():
        assert any(name in line and words in line for line in lines), (name, lines)
    report = json.loads((preds / "out" / "metrics.json").read_text())
    assert list(report["cases"]) == ["good"]
    assert len(report["faults"]) == 5


def test_probabilities_and_preprocessed_labels(tmp_path, folders):
    preds, _ = folders
    stored = tmp_path / "x_3d"
    stored.mkdir()
    plan = Plan(
        name="x_3d", dataset="x", dim=3, channels=("MRI",), labels=("background", "liver", "tumour"),
        spacing_mm=(1.0, 1.0, 1.0), patch_size=(8, 8, 8), normalization=(Normalization(scheme="zscore"),),
    )  # fmt: skip
    plan.save(stored)
    image = np.zeros((1, 12, 16, 20), np.float32)
    image[:, 1:11, 1:15, 1:18] = np.random.default_rng(0).random((1, 10, 14, 17)) + 1
    case = prepare(image, GEOMETRY, plan, case="a", pad=True, label=label_map()[None])
    write_case(stored, case.info, case.image_cdhw, case.label, case.original_label, case.foreground)
    np.save(preds / "a.npy", np.stack([label_map() == value for value in range(3)]).astype(np.float16))
    assert run(preds, stored) == 0
    report = json.loads((preds / "metrics.json").read_text())
    assert report["mean"]["dice"]["mean"] == 1
    np.save(preds / "a.npy", np.zeros((2, 12, 16, 20), np.float16))
    with pytest.raises(EvaluationError, match="none of the predictions"):
        run(preds, stored)


def test_the_scan_is_the_background_of_the_pictures(tmp_path, folders):
    preds, labels = folders
    images = tmp_path / "imagesTr"
    images.mkdir()
    write_volume(labels / "a.nii.gz", label_map(), GEOMETRY)
    write_volume(preds / "a.nii.gz", label_map(1), GEOMETRY)
    assert run(preds, labels) == 0
    plain = (preds / "best.png").read_bytes()
    noise = np.random.default_rng(0).random((12, 16, 20)).astype(np.float32)
    write_volume(images / "a_0000.nii.gz", noise, GEOMETRY)
    assert run(preds, labels, "--images", str(images)) == 0
    assert (preds / "best.png").read_bytes() != plain
    (images / "a_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match="has no scan named a"):
        run(preds, labels, "--images", str(images))


def test_without_names_classes_are_those_that_occur(tmp_path):
    preds, labels = tmp_path / "p", tmp_path / "l"
    preds.mkdir()
    labels.mkdir()
    for case, tumour in (("a", False), ("b", True)):
        write_volume(labels / f"{case}.nii.gz", label_map(tumour=tumour), GEOMETRY)
        np.save(preds / f"{case}.npy", label_map(tumour=tumour))
    assert run(preds, labels) == 0
    report = json.loads((preds / "metrics.json").read_text())
    assert list(report["classes"]) == ["class 1", "class 2"]
    assert report["classes"]["class 2"]["dice"] == {"mean": 1, "std": 0, "cases": 1}


def test_probabilities_of_regions_become_the_classes_that_they_were_made_of(tmp_path, capsys):
    preds, labels = tmp_path / "p", tmp_path / "l"
    preds.mkdir()
    labels.mkdir()
    truth = label_map()
    truth[2:4, 2:6, 2:6] = 3
    write_volume(labels / "a.nii.gz", truth, GEOMETRY)
    regions = brats_regions(("background", "edema", "enhancing tumour", "non-enhancing tumour"))
    inside = regions.channels(torch.from_numpy(truth)[None, None])[0].numpy()
    np.save(preds / "a.npy", np.where(inside, 0.75, 0.25).astype(np.float16))
    with pytest.raises(EvaluationError, match="none of the predictions"):
        run(preds, labels)
    message = capsys.readouterr().err
    assert "a.npy: its channels do not sum to 1" in message
    assert "regions.json" in message
    write_regions(preds, regions)
    assert run(preds, labels) == 0
    report = json.loads((preds / "metrics.json").read_text())
    assert [report["classes"][f"class {value}"]["dice"]["mean"] for value in (1, 2, 3)] == [1, 1, 1]
    (preds / "regions.json").write_text("{}")
    with pytest.raises(EvaluationError, match="none of the predictions"):
        run(preds, labels)
    assert "regions.json does not describe regions" in capsys.readouterr().err


def test_empty_and_missing_folders_are_named(folders, tmp_path):
    preds, labels = folders
    with pytest.raises(EvaluationError, match="holds no predictions"):
        run(preds, labels)
    (preds / "predictions_last_task=04_fold=0").mkdir()
    write_volume(preds / "predictions_last_task=04_fold=0" / "a.nii.gz", label_map(), GEOMETRY)
    with pytest.raises(EvaluationError, match=r"there are some in '.*/predictions_last_task=04_fold=0'"):
        run(preds, labels)
    write_volume(preds / "a.nii.gz", label_map(), GEOMETRY)
    with pytest.raises(EvaluationError, match="holds no labels"):
        run(preds, labels)
    with pytest.raises(EvaluationError, match="is not a folder"):
        run(preds, tmp_path / "nowhere")


def test_a_healthy_patient_costs_nobody_the_scores(tmp_path, capsys):
    preds, labels = tmp_path / "preds", tmp_path / "labels"  # without a dataset.json
    preds.mkdir()
    labels.mkdir()
    empty = np.zeros((12, 16, 20), np.uint8)
    for case, found in (("ill", label_map()), ("well", empty)):
        write_volume(labels / f"{case}.nii.gz", found, GEOMETRY)
        write_volume(preds / f"{case}.nii.gz", found, GEOMETRY)
    assert run(preds, labels) == 0
    report = json.loads((preds / "metrics.json").read_text())
    assert report["classes"]["class 1"]["dice"] == {"mean": 1, "std": 0, "cases": 1}
    assert report["cases"]["well"]["class 1"]["dice"] is None
    (labels / "ill.nii.gz").unlink()
    (preds / "ill.nii.gz").unlink()
    assert run(preds, labels) == 0
    assert json.loads((preds / "metrics.json").read_text())["mean"]["dice"] == {"mean": None, "std": None, "cases": 0}
