"""A vector for each scan: the mean over windows that cover it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cases.case import CaseError
from inference.predict import Load
from inference.scan_vectors import mean_over_windows, scan_vectors
from inference.sliding_window import SlidingWindow

IMAGE = np.arange(12 * 16 * 20, dtype=np.float32).reshape(1, 12, 16, 20) + 1


@pytest.mark.parametrize("patch", [(8, 12, 16), (16, 16, 24), (16, 24)])
def test_windows_cover_the_scan_and_count_alike(patch: tuple[int, ...]) -> None:
    seen: list[Tensor] = []

    def answer(windows: Tensor) -> Tensor:
        assert windows.shape[1:] == (1, *patch) and len(windows) <= 4
        seen.append(windows.clone())
        return windows.flatten(1)[:, :3]

    mean = mean_over_windows(IMAGE, answer, SlidingWindow(patch_size=patch, batch_size=4))
    windows = torch.cat(seen)
    assert set(IMAGE.flatten().tolist()) <= set(windows.flatten().tolist())
    torch.testing.assert_close(mean, windows.flatten(1)[:, :3].double().mean(0))


def test_a_bad_scan_costs_no_other_one() -> None:
    def bad() -> tuple[np.ndarray, None]:
        raise CaseError("the file is cut short")

    loads: list[tuple[str, Load]] = [("a", lambda: (IMAGE, None)), ("b", bad), ("c", lambda: (2 * IMAGE, None))]  # type: ignore[list-item]
    windows = SlidingWindow(patch_size=(12, 16, 20))
    found = list(scan_vectors(loads, lambda x: x.flatten(1).mean(1, keepdim=True), windows))
    assert [entry.case for entry in found] == ["a", "b", "c"]
    assert found[1].vector is None and found[1].fault == "b: the file is cut short"
    assert [float(entry.vector) for entry in (found[0], found[2]) if entry.vector is not None] == [
        pytest.approx(IMAGE.mean()),
        pytest.approx(2 * IMAGE.mean()),
    ]
