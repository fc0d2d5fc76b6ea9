"""Images for the tests of the effects."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(params=[(2, 12, 16, 20), (1, 16, 20)], ids=["3D, two channels", "2D"])
def image(request: pytest.FixtureRequest) -> np.ndarray:
    return np.random.default_rng(0).normal(1, 2, request.param).astype(np.float32)
