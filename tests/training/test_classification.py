import csv
import json
import math

import numpy as np
import pytest
import torch

from data_loading.sources.classes import ClassTable
from inference.sliding_window import SlidingWindow
from nets.dynamic_unet import NetworkSettings
from training.classification import (
    ClassificationModule,
    ClassificationSettings,
    auc_interval,
    score_classes,
    write_scores,
)


def test_scores_of_two_classes():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    scores = score_classes(p, np.array([[0], [0], [1], [1]], np.float32), "ce")
    assert scores.accuracy == 0.75
    assert scores.auc == 0.75  # of four pairs of one scan each, three are in order
    assert scores.confusion == [[2, 0], [1, 1]]


def test_scores_of_three_classes_and_of_several_labels():
    three = score_classes(np.eye(3) * 0.8 + 0.1, np.array([[0], [1], [2]], np.float32), "ce")
    assert (three.accuracy, three.auc) == (1.0, 1.0)
    two = score_classes(np.array([[0.9, 0.2], [0.1, 0.6]]), np.array([[1, 0], [0, 0]], np.float32), "bce")
    assert two.accuracy == 0.75
    assert math.isnan(two.auc)  # nobody has the second label
    assert two.confusion == [[[1, 0], [0, 1]], [[1, 1], [0, 0]]]


def test_scores_of_each_class():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    first, second = score_classes(p, np.array([[0], [0], [1], [1]], np.float32), "ce").by_class
    assert (first["accuracy"], second["accuracy"]) == (1.0, 0.5)
    assert first["auc"] == second["auc"] == 0.75
    labels = score_classes(np.array([[0.9, 0.2], [0.1, 0.6]]), np.array([[1, 0], [0, 0]], np.float32), "bce").by_class
    assert [entry["accuracy"] for entry in labels] == [1.0, 0.5]
    assert math.isnan(labels[1]["auc"]) and math.isnan(labels[0]["auc_low"])


def test_the_interval_of_an_auc_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true = 0.5 * (1 + math.erf(1 / 2))  # of normal scores one deviation apart: Phi(1 / sqrt(2))
    truth = np.arange(120) < 50
    hits = 0
    for _ in range(400):
        low, area, high = auc_interval(rng.normal(size=120) + truth, truth)
        assert low < area < high
        hits += low <= true <= high
    assert 0.92 < hits / 400 < 0.98
    assert auc_interval(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, True, True])) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_the_loss_falls_on_a_batch_and_scores_are_written(make_folder, tmp_path, kind):
    _, plan, cases = make_folder(2, labelled=False)
    targets = [[0.0], [1.0]] if kind == "ce" else [[1.0, 0.0], [0.0, 1.0]]
    table = ClassTable(
        names=("a", "b"), targets={c: np.array(t, np.float32) for c, t in zip(cases, targets, strict=True)}
    )
    torch.manual_seed(0)
    module = ClassificationModule(
        plan,
        NetworkSettings(depth=1, filters=(4, 8)),
        table,
        settings=ClassificationSettings(labels_csv=tmp_path / "labels.csv", loss=kind, hidden=16),
        windows=SlidingWindow(patch_size=plan.patch_size),
    )
    x = torch.rand(2, 1, 8, 12, 16) * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1)
    target = torch.tensor(targets)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = module.loss(module.network(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

    rows = np.array([[0.75, 0.25], [0.5, 0.5]])
    module.probabilities = dict(zip(cases, rows, strict=True))
    module.scores = score_classes(rows, np.array(targets, np.float32), kind)
    write_scores(tmp_path, module)
    summary = json.loads((tmp_path / "classification.json").read_text())
    assert summary["classes"] == ["a", "b"]
    assert summary["auc"] == 1.0
    with (tmp_path / "classification.csv").open() as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == ["case", "p(a)", "p(b)", "target"]
    assert lines[1] == [cases[0], "0.750000", "0.250000", "a" if kind == "ce" else "1 0"]
