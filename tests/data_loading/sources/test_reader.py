"""Cases are opened, checked against their json, and cut into boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cases.case import CaseError
from data_loading.sources.reader import OPEN_CASES, CaseReader, copy_box

MakeFolder = Callable[..., tuple]


def test_a_box_may_leave_the_volume_on_every_side() -> None:
    volume = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
    box = copy_box(volume, (-1, -1, -1), (4, 5, 6))
    assert np.array_equal(box[:, 1:3, 1:4, 1:5], volume)
    assert int(box.sum()) == int(volume.sum())


def test_arrays_that_disagree_with_the_json_are_named(make_folder: MakeFolder) -> None:
    folder, plan, (case, *_) = make_folder(1)
    np.save(folder / f"{case}_y.npy", np.zeros((1, 12, 16, 21), np.uint8))
    with pytest.raises(CaseError, match=rf"{case}_y\.npy holds uint8 \(1, 12, 16, 21\).*\(1, 12, 16, 20\)"):
        CaseReader(folder, plan.in_channels).open(case)
    with pytest.raises(CaseError, match=rf"{case}_x\.npy .*\(2, 12, 16, 20\)"):
        CaseReader(folder, 2).open(case)


def test_few_cases_stay_open(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plan, cases = make_folder(5)
    monkeypatch.setattr("data_loading.sources.reader.OPEN_CASES", 2)
    reader = CaseReader(folder, plan.in_channels)
    for case in cases:
        reader.open(case)
    assert list(reader._open) == cases[-2:]
    assert OPEN_CASES < 1024 // 3
