"""Pre-training: what a network can learn from unlabelled scans, one package a method.

``METHODS`` is the table of ``--method``. A new one is a package (or a file) of its own and a line here; without the
line it is named on the command line as ``module:object`` or ``file.py:object``. :mod:`pretraining.base` says what a
method has to bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cases.registry import Registry
from cases.settings import Settings, setting

if TYPE_CHECKING:
    from pretraining.base import Method

METHODS: Registry[type[Method]] = Registry(
    "pre-training method",
    {
        "genesis": "pretraining.genesis.method:Genesis",
        "autoencoder": "pretraining.autoencoder.method:ScanAutoencoder",
        "semantic": "pretraining.semantic.method:SemanticGenesis",
    },
    needs=("settings", "build"),
)


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Settings):
    """What a network learns from unlabelled scans."""

    method: str = setting(
        "genesis",
        "genesis: to restore patches; autoencoder: to code whole scans, which ends in their features; semantic: "
        "Semantic Genesis, to classify and restore the patterns found with those features; or your own, as "
        "module:object or file.py:object",
        variants=METHODS,
    )
