"""Normalisations by name, and the fused kernels of instance norm and LeakyReLU.

An entry of ``NORMS`` is called as ``entry(channels, dim, eps=eps)`` and returns a module that keeps the shape of
(N, channels, *space), ``dim`` spatial axes. A ResNet and Models Genesis's network keep their batch norm whatever
is chosen, since its statistics come with their weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases.registry import Registry

NORMS: Registry[Callable[..., Any]] = Registry(
    "normalisation",
    {
        "instance": "nets.norm.layers:instance_norm",
        "batch": "nets.norm.layers:batch_norm",
        "group": "nets.norm.layers:group_norm",
        "instance_nvfuser": "nets.norm.layers:instance_norm",  # a name from before the fused kernels
    },
)
