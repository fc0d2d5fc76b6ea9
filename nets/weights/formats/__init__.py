"""Formats of checkpoints by name, in the order in which a file is held against them. A new one is a file and a line."""

from __future__ import annotations

from cases.registry import Registry
from nets.weights.formats.base import WeightFormat

FORMATS: Registry[WeightFormat] = Registry(
    "format of weights",
    {
        "own": "nets.weights.formats.own:OWN",  # before the others, whose keys may end alike
        "semantic_genesis": "nets.weights.formats.genesis:SEMANTIC_GENESIS",  # before genesis, of which it has all keys
        "genesis": "nets.weights.formats.genesis:GENESIS",
        "genesis_keras": "nets.weights.formats.keras:KERAS",
        "nnunet_v1": "nets.weights.formats.nnunet:NNUNET_V1",
        "nnunet_v2": "nets.weights.formats.nnunet:NNUNET_V2",
        "resnet": "nets.weights.formats.resnet:RESNET",
    },
)
