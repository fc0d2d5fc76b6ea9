"""Grids that no scan has."""

import numpy as np
import pytest

from cases.volumes import Geometry

AFFINE = np.diag([0.5, 0.75, 2.0, 1.0])


def fault(spacing=(2.0, 0.75, 0.5), affine=AFFINE, **entries):
    changed = np.array(affine)
    for key, value in entries.items():
        changed[int(key[1]), int(key[2])] = value
    return Geometry.of((5, 6, 7), spacing, changed).fault


def test_a_grid_of_a_scan_has_no_fault():
    assert fault() is None
    assert fault(a00=0.5001) is None  # rounded
    geometry = Geometry.of((5, 6, 7), (2.0, 0.75, 0.5), AFFINE)
    assert geometry.turned().fault is None and geometry.turned().spacing_mm == (0.5, 0.75, 2.0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (fault((0, 0.75, 0.5)), "voxel size 0 x 0.75 x 0.5 mm (D, H, W) is not within 0.001 to 1000"),
        (fault((np.nan, 0.75, 0.5)), "is not within"),
        (fault((5000, 0.75, 0.5)), "is not within"),
        (fault(a00=0.6), "voxel size 2 x 0.75 x 0.5 mm (D, H, W), but 2 x 0.75 x 0.6 mm by its affine"),
        (fault(a22=1e300), "is not finite, or places it beyond 1 km"),  # whose length overflows
        (fault(a03=np.nan), "is not finite"),
        (fault(a11=0, a01=0.75), "lie in a plane"),
    ],
)
def test_faults_are_told(found, message):
    assert message in str(found)
