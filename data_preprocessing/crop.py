"""Boxes and borders: cut to the non-zero part, pad to a size.

Every function works on the last three axes, (D, H, W); a box is (start, end).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cases.case import Box

Triple = tuple[int, int, int]


def nonzero_box(image_cdhw: np.ndarray) -> Box:
    """The smallest box that holds every voxel that is not zero in some channel; all of it where none is."""
    planes = (image_cdhw != 0).any(axis=0)
    inside_plane = planes.any(axis=0)
    spans = []
    for line in (planes.any(axis=(1, 2)), inside_plane.any(axis=1), inside_plane.any(axis=0)):
        hits = np.flatnonzero(line)
        spans.append((int(hits[0]), int(hits[-1]) + 1) if len(hits) else (0, len(line)))
    (d0, d1), (h0, h1), (w0, w1) = spans
    return (d0, h0, w0), (d1, h1, w1)


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """The part of ``array`` in the box, a view."""
    (d0, h0, w0), (d1, h1, w1) = box
    return array[..., d0:d1, h0:h1, w0:w1]


def pad_to(array: np.ndarray, least_dhw: Sequence[int]) -> tuple[np.ndarray, Triple]:
    """Zeros around ``array``, the odd one behind, until no side is below ``least_dhw``.

    Returns:
        The padded array (``array`` itself where nothing was missing) and the zeros before each axis.
    """
    missing = [max(0, want - side) for want, side in zip(least_dhw, array.shape[-3:], strict=True)]
    d, h, w = (m // 2 for m in missing)
    if not any(missing):
        return array, (0, 0, 0)
    widths = [(0, 0)] * (array.ndim - 3) + [(m // 2, m - m // 2) for m in missing]
    return np.pad(array, widths), (d, h, w)
