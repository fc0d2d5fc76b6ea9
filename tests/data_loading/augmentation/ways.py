"""Both ways to compute an effect, compiled and as DALI's graph, for the tests of each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def

from data_loading.augmentation.pipeline import EFFECTS, Augmentation

SIDES = (12, 16, 20)
WAYS = ["compiled", "cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
Graph = Callable[..., Any]


def run_graph(graph: Graph, *arrays: np.ndarray, device: str = "cpu", layout: str = "CDHW") -> np.ndarray:
    """One sample through a graph under conditionals; only the first array goes to the device."""
    if device == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    @pipeline_def(enable_conditionals=True, batch_size=1, num_threads=1, device_id=0 if device == "gpu" else None)
    def pipeline() -> Any:
        nodes = [
            fn.external_source(source=repeat([a]), batch=True, layout=layout if i == 0 else "")
            for i, a in enumerate(arrays)
        ]
        return graph(nodes[0].gpu() if device == "gpu" else nodes[0], *nodes[1:])

    run = pipeline()
    run.build()
    (output,) = run.run()
    return np.array((output.as_cpu() if device == "gpu" else output).as_array()[0])


def effect(way: str, image: np.ndarray, name: str, values: Any, *, in_plane: bool = False) -> np.ndarray:
    """A named effect with these parameters, every other effect off, through the whole augmentation."""
    axes = image.ndim - 1
    augmentation, packed = Augmentation.nnunet(), packed_with(image.shape, name, values)
    if way == "compiled":
        changed = image.copy()
        augmentation.apply_cpu(changed if axes == 3 else changed[:, None], packed, axes, in_plane or axes == 2)
        return changed
    layout = "CDHW" if axes == 3 else "CHW"

    def graph(i: Any, p: Any) -> Any:
        return (augmentation.apply_dali(i, p, image.shape, in_plane),)

    return run_graph(graph, image, packed, device=way, layout=layout)


def packed_with(shape: tuple[int, ...], name: str, values: Any = ()) -> np.ndarray:
    """The packed vector of nnU-Net's effects where only one, or none, is on."""
    augmentation, channels, axes = Augmentation.nnunet(), shape[0], len(shape) - 1
    packed = np.zeros(augmentation.width(channels, axes), np.float32)
    for made, first, end in augmentation.places(channels, axes):
        if name and type(made) is EFFECTS.get(name):
            packed[first:end] = np.asarray(values, np.float32).reshape(-1)
            packed[first - 1] = 1
    return packed


def column(values: list[float], image: np.ndarray) -> np.ndarray:
    """One number for each channel, to broadcast over the image."""
    return np.array(values[: len(image)], np.float32).reshape(-1, *[1] * (image.ndim - 1))
