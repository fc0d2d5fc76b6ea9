import json

import numpy as np
import pytest

from tests.nets.published_layouts import CHECKPOINTS, write


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """name -> (file in the published layout, arrays with input and outputs). Skips where shared/ is absent."""
    folder = tmp_path_factory.mktemp("published")
    made = {}

    def make(name):
        if not CHECKPOINTS.is_dir():
            pytest.skip(f"{CHECKPOINTS} is not here")
        if name not in made:
            facts = json.loads((CHECKPOINTS / f"{name}.json").read_text())
            arrays = dict(np.load(CHECKPOINTS / f"{name}.npz"))
            made[name] = write(folder, name, facts), arrays
        return made[name]

    return make
