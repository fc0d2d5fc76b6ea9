"""Every case exactly once, at any number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cases.case import CaseError
from data_loading.volumes import VolumeLoader


def test_volumes_come_whole_and_in_order(make_folder: Callable[..., tuple]) -> None:
    folder, plan, cases = make_folder(3, channels=2, dtype="float16")
    items = list(VolumeLoader(folder, cases, plan.in_channels))
    assert [item["case"] for item in items] == cases
    for item in items:
        assert item["image"].shape == (1, 2, 12, 16, 20)
        assert item["image"].dtype == torch.float32
        assert item["label"].shape == (1, 1, 12, 16, 20)
        assert np.array_equal(item["label"][0].numpy(), np.load(folder / f"{item['case']}_y.npy"))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_the_cases_without_repeats(make_folder: Callable[..., tuple], world_size: int) -> None:
    folder, _plan, cases = make_folder(5)
    loaders = [VolumeLoader(folder, cases, 1, rank=r, world_size=world_size) for r in range(world_size)]
    assert sorted(item["case"] for loader in loaders for item in loader if item) == cases
    assert min(map(len, loaders)) >= 1  # Lightning would leave a rank without any item out of the evaluation
    assert [len(loader) for loader in loaders] == [len(list(loader)) for loader in loaders]


def test_cases_without_labels_have_none(make_folder: Callable[..., tuple]) -> None:
    folder, plan, cases = make_folder(1, labelled=False)
    (item,) = VolumeLoader(folder, cases, plan.in_channels)
    assert set(item) == {"image", "case"}


def test_a_broken_case_is_named(make_folder: Callable[..., tuple]) -> None:
    folder, plan, cases = make_folder(2)
    (folder / f"{cases[1]}_x.npy").unlink()
    volumes = iter(VolumeLoader(folder, cases, plan.in_channels))
    assert next(volumes)["case"] == cases[0]
    with pytest.raises(CaseError, match=r"case_01_x\.npy does not exist"):
        next(volumes)
