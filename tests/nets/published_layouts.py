"""Files in the published layouts, filled by the rule that is written beside the reference outputs."""

import math
from pathlib import Path

import h5py
import numpy as np
import torch

CHECKPOINTS = Path(__file__).parents[3] / "shared" / "parity" / "checkpoints"


def fill(shapes, seed, *, keras=False):
    """The weights of a reference: the same numbers on any machine."""
    weights = {}
    for i, key in enumerate(sorted(shapes)):
        shape = tuple(shapes[key])
        r = np.random.default_rng([seed, i]).standard_normal(shape).astype(np.float32)
        scales = key.endswith("gamma") if keras else key.endswith("weight") and _is_norm(key)
        if key.endswith("num_batches_tracked"):
            r = np.zeros(shape, np.int64)
        elif key.endswith(("running_var", "moving_variance")):
            r = np.abs(r) + np.float32(0.5)
        elif len(shape) == 1:
            r = r * np.float32(0.1) + np.float32(scales)
        else:
            r = r * np.float32(math.sqrt(2 / math.prod(shape[:-1] if keras else shape[1:])))
        weights[key] = r
    return weights


def _is_norm(key):
    return "bn" in key or "norm" in key or "downsample.1" in key


def write(folder, name, facts):
    if "weights" in facts:
        return write_keras(folder / f"{name}.h5", fill(facts["weights"], facts["seed"], keras=True))
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in fill(facts["keys"], facts["seed"]).items()}
    if "module." in facts["file_layout"]:
        state = {"module." + key: value for key, value in state.items()}
    content = {"state_dict": state}
    if "epoch" in facts["file_layout"]:
        content |= {"epoch": 7, "optimizer_state_dict": {"state": {}, "param_groups": []}}
    if "best_loss" in facts["file_layout"]:
        content |= {"num_epoch_no_improvement": 3, "best_loss": np.float64(0.25), "best_acc": np.float32(0.5)}
    path = folder / f"{name}.pt"
    torch.save(content, path)
    return path


def write_keras(path, weights, root="model_weights"):
    with h5py.File(path, "w") as file:
        for key, value in weights.items():
            layer, leaf = key.split("/")
            file.create_dataset("/".join(filter(None, [root, layer, layer, f"{leaf}:0"])), data=value)
    return path


def relative_error(found, expected):
    """Largest difference over the largest expected value."""
    expected = torch.as_tensor(expected)
    return ((found.detach() - expected).abs().max() / expected.abs().max()).item()
