"""Encoders by name: THE list of them. ``base.py`` says what an entry is, and what an encoder has to have."""

from __future__ import annotations

from cases.registry import Registry
from nets.encoders.base import EncoderEntry

ENCODERS: Registry[EncoderEntry] = Registry(
    "encoder",
    {
        "unet": "nets.encoders.unet:UNetEncoder",
        "genesis": "nets.encoders.genesis:GenesisEncoder",
        "resnet10": "nets.encoders.resnet:RESNET10",
        "resnet18": "nets.encoders.resnet:RESNET18",
        "resnet34": "nets.encoders.resnet:RESNET34",
        "resnet50": "nets.encoders.resnet:RESNET50",
        "resnet101": "nets.encoders.resnet:RESNET101",
        "resnet152": "nets.encoders.resnet:RESNET152",
        "resnet200": "nets.encoders.resnet:RESNET200",
    },
    needs=("build",),
)
