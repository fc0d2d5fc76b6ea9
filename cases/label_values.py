"""Values of label files, which may have gaps (0, 1, 2, 4), to the classes 0, 1, 2, ... that are stored, and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MOST_CLASSES = 256  # what is stored is uint8
HIGHEST = 65535  # what is written is uint16 at the most


def value_faults(values: Sequence[int]) -> list[str]:
    """What keeps these values, by class, from being a dataset's, in words."""
    if len(values) > MOST_CLASSES:
        return [f"{len(values)} classes; at most {MOST_CLASSES} can be stored"]
    if not values or values[0] != 0:
        return [f"label values {list(values)} lack 0, the background"]
    if any(low >= high for low, high in pairwise(values)):
        return [f"label values {list(values)} do not rise"]
    return [f"label value {values[-1]} is above {HIGHEST}"] if values[-1] > HIGHEST else []


def unknown_values(label: np.ndarray, values: Sequence[int]) -> list[int]:
    """Values of a label map that no class has."""
    if int(label.max()) < len(values) == values[-1] + 1:
        return []
    return sorted(set(np.unique(label).tolist()) - set(values))


def to_classes(label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """uint8 classes of a label map that holds no other values; without gaps, the very array."""
    if len(values) == values[-1] + 1:
        return label.astype(np.uint8, copy=False)
    table = np.zeros(values[-1] + 1, np.uint8)
    table[list(values)] = np.arange(len(values))
    return table[label]


def from_classes(classes: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The label file's values of classes: uint8, or uint16 where a value is above 255."""
    if len(values) == values[-1] + 1:
        return classes
    return np.array(values, np.uint8 if values[-1] <= 255 else np.uint16)[classes]
