"""Classes, label values and regions of dataset.json."""

from pathlib import Path

import pytest

from data_preprocessing.layouts.dataset import DatasetError
from data_preprocessing.layouts.description import read_classes

PATH = Path("dataset.json")


def test_values_with_gaps_of_either_layout():
    for labels in ({"0": "background", "1": "spleen", "104": "rib"}, {"rib": 104, "background": 0, "spleen": 1}):
        classes = read_classes(PATH, {"labels": labels})
        assert (classes.labels, classes.label_values) == (("background", "spleen", "rib"), (0, 1, 104))
    assert read_classes(PATH, {"labels": {"0": "background", "1": "liver"}}).label_values == ()


def test_regions():
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": [3]}
    classes = read_classes(PATH, {"labels": labels, "regions_class_order": [1, 2, 3]})
    assert classes.labels == ("background", "class 1", "class 2", "enhancing")
    assert classes.regions == ("whole tumor=1,2,3:1", "tumor core=2,3:2", "enhancing=3:3")
    named = {"labels": {"0": "background", "1": "core", "4": "rim"}, "regions": {"whole": [1, 4], "rim": [4]}}
    assert read_classes(PATH, named).regions == ("whole=1,4", "rim=4")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"labels": {"1": "liver", "5": "spleen"}}, "lack 0, the background"),
        ({"labels": {str(value): "x" for value in range(300)}}, "300 classes; at most 256"),
        ({"labels": {"0": "background", "70000": "x"}}, "above 65535"),
        ({"labels": {"background": 0, "liver": 1, "spleen": 1}}, "a value of its own"),
        ({"labels": {"background": 0, "a": [1, 2], "b": [2]}, "regions_class_order": [1]}, "1 values in regions_class"),
        ({"labels": {"0": "background", "1": "a"}, "regions": {"whole": [1, 2]}}, r"has values \[2\]"),
        ({"labels": ["liver"]}, "must be such as"),
    ],
)
def test_refusals_name_the_file(description, message):
    with pytest.raises(DatasetError, match=f"dataset.json: .*{message}"):
        read_classes(PATH, description)
