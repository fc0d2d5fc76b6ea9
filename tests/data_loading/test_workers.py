"""Reading processes hold neither torch nor Lightning nor MONAI; a worker of every source is started to see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.workers import start_workers
from data_loading.augmentation.pipeline import EFFECTS, Augmentation
from data_loading.module import LoaderSettings, patch_source
from data_loading.sources.classes import ClassSource
from data_loading.sources.source import Source

pytestmark = pytest.mark.loader
MakeFolder = Callable[..., tuple]
EVERY = Augmentation.only(*EFFECTS)


def patches(make_folder: MakeFolder) -> Source:
    return patch_source(*make_folder(2), LoaderSettings(), EVERY, compiled=True)


def boxes(make_folder: MakeFolder) -> Source:
    """What a GPU's graph finishes."""
    return patch_source(*make_folder(2), LoaderSettings(), EVERY, compiled=False)


def classes(make_folder: MakeFolder) -> Source:
    source = patch_source(*make_folder(2, labelled=False), LoaderSettings(), EVERY, compiled=True, labelled=False)
    return ClassSource(patches=source, targets=(np.zeros(1, np.float32),) * 2)


@pytest.mark.parametrize("make", [patches, boxes, classes])
def test_a_worker_holds_no_heavy_package(make_folder: MakeFolder, make: Callable[[MakeFolder], Source]) -> None:
    worker = start_workers(make(make_folder), 1)
    assert "data_loading.sources.patches" in worker.modules
    assert worker.heavy == []
    assert 0 < worker.rss_mib < 1000
    assert worker.seconds > 0
