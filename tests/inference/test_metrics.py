import math

import numpy as np
import pytest
import torch

from cases.regions import brats_regions
from inference.metrics import DiceMeter, overlap
from inference.scores import METRICS, score_case, summary


def maps():
    label, prediction = torch.zeros(12, 16, 20, dtype=torch.uint8), torch.zeros(12, 16, 20, dtype=torch.uint8)
    label[2:6, 2:6, 2:6] = 1
    prediction[2:6, 2:6, 4:8] = 1
    label[8:10, 8:10, 8:10] = 2
    return prediction, label


def test_overlap_by_class():
    counts = overlap(*maps(), n_class=4)
    assert counts.intersection.tolist() == [32, 0, 0]
    assert counts.predicted.tolist() == [64, 0, 0]
    assert counts.true.tolist() == [64, 8, 0]
    assert counts.dice[:2].tolist() == [0.5, 0.0]
    assert counts.iou[0] == pytest.approx(1 / 3)
    assert counts.dice[2].isnan()
    assert counts.iou[2].isnan()


def test_overlap_by_region():
    regions = brats_regions(("background", "edema", "non-enhancing tumor", "enhancing tumour"))
    label, prediction = torch.tensor([1, 2, 3, 0]), torch.tensor([2, 3, 3, 0])
    counts = overlap(prediction, label, 4, regions)
    assert counts.dice.tolist() == pytest.approx([1.0, 4 / 5, 2 / 3])


def test_faults_name_shape_and_class():
    prediction, label = maps()
    with pytest.raises(ValueError, match="differ in shape"):
        overlap(prediction[1:], label, 3)
    with pytest.raises(ValueError, match="class value 2 is not among the 2 classes 0 to 1"):
        overlap(prediction, label, 2)


def test_meter_leaves_absent_classes_out_and_adds_up_over_processes():
    prediction, label = maps()
    one, other = DiceMeter(4), DiceMeter(4)
    one.update(prediction, label)  # 0.5, 0, absent
    other.update(label, label)  # 1, 1, absent
    mean, by_class = DiceMeter.means(one.totals + other.totals)
    assert mean == pytest.approx((0.25 + 1) / 2)
    assert by_class[:2] == pytest.approx([0.75, 0.5])
    assert math.isnan(by_class[2])
    one.reset()
    assert one.totals.sum() == 0


def test_a_case_without_any_class_does_not_count():
    meter = DiceMeter(3)
    meter.update(torch.zeros(4, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, 4, dtype=torch.uint8))
    assert meter.totals.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_surface_scores_are_in_millimetres():
    """A box moved by two voxels of 3 mm along W."""
    prediction, label = (m.numpy() for m in maps())
    scores = score_case(prediction, label, (1.0, 2.0, 3.0), n_class=4, tolerance_mm=6.0)
    dice, iou, hd95, surface = scores[0]
    assert (dice, iou) == pytest.approx((0.5, 1 / 3))
    assert hd95 == pytest.approx(6.0)
    assert surface == 1.0
    assert score_case(prediction, label, (1.0, 2.0, 3.0), n_class=4, tolerance_mm=1.0)[0, 3] < 0.8


def test_a_class_in_one_map_alone_is_the_worst_and_in_neither_nothing():
    prediction, label = (m.numpy() for m in maps())
    scores = score_case(prediction, label, (1.0, 2.0, 3.0), n_class=4)
    assert scores[1].tolist() == pytest.approx([0, 0, math.hypot(12, 32, 60), 0])
    assert np.isnan(scores[2]).all()
    assert scores.shape == (3, len(METRICS))


def test_summary_says_how_many_cases_it_is_made_of():
    mean, deviation, count = summary(np.array([[1.0, np.nan], [0.5, np.nan], [np.nan, np.nan]]))
    assert (mean[0], deviation[0]) == (0.75, 0.25)
    assert count.tolist() == [2, 0]
    assert np.isnan(mean[1])
