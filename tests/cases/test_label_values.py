"""Values of label files with gaps, to classes and back."""

import numpy as np
import pytest

from cases.label_values import from_classes, to_classes, unknown_values, value_faults


@pytest.mark.parametrize(("values", "dtype"), [((0, 1, 2, 4), np.uint8), ((0, 1, 5, 104, 700), np.uint16)])
def test_values_come_back(values, dtype):
    label = np.random.default_rng(0).choice(values, (3, 4, 5)).astype(dtype)
    classes = to_classes(label, values)
    assert classes.dtype == np.uint8 and set(np.unique(classes)) == set(range(len(values)))
    back = from_classes(classes, values)
    assert back.dtype == dtype and np.array_equal(back, label)


def test_without_gaps_nothing_is_copied():
    label = np.array([0, 1, 2], np.uint8)
    assert to_classes(label, (0, 1, 2)) is label and from_classes(label, (0, 1, 2)) is label


def test_unknown_values_are_found():
    assert unknown_values(np.array([0, 3, 4, 9], np.uint8), (0, 1, 2, 4)) == [3, 9]
    assert unknown_values(np.array([0, 2], np.uint8), (0, 1, 2)) == []
    assert unknown_values(np.array([0, 300], np.uint16), (0, 1, 2)) == [300]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (range(257), "257 classes; at most 256"),
        ((1, 2), "lack 0, the background"),
        ((0, 2, 2), "do not rise"),
        ((0, 70000), "70000 is above 65535"),
    ],
)
def test_values_that_cannot_be_stored(values, message):
    assert message in value_faults(values)[0]
    assert value_faults((0, 1, 5, 104)) == []
