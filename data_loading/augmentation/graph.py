"""Pieces of DALI's graph that several effects use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nvidia.dali import fn

from data_loading.augmentation.effect import Node

TINY = 1e-7  # instead of a range or a deviation of 0


def by_channel(image: Node, parameters: Node, channels: int, width: int, effect: Callable[[Node, Node], Node]) -> Node:
    """Apply ``effect(channel, its width parameters)`` to those channels whose first parameter is above 0."""
    done = []
    for c in range(channels):
        channel = image[c : c + 1]
        first = c * width
        if parameters[first] > 0:
            channel = effect(channel, parameters[first : first + width])
        done.append(channel)
    return fn.cat(*done, axis=0) if channels > 1 else done[0]


def column(parameters: Node, image: Node, shape: Sequence[int]) -> Node:
    """One number for each channel, shaped to broadcast over (C, *axes), where the image is."""
    reshaped = fn.reshape(parameters, shape=[shape[0], *[1] * (len(shape) - 1)], layout="")
    return reshaped.gpu() if image.device == "gpu" else reshaped


def statistics(image: Node, shape: Sequence[int]) -> tuple[Any, Any, Any]:
    """Least, largest and mean value of each channel, (C, 1, ...)."""
    axes = spatial(shape)
    return (
        fn.reductions.min(image, axes=axes, keep_dims=True),
        fn.reductions.max(image, axes=axes, keep_dims=True),
        fn.reductions.mean(image, axes=axes, keep_dims=True),
    )


def spatial(shape: Sequence[int]) -> list[int]:
    """The axes of (C, *axes) but the first."""
    return list(range(1, len(shape)))
