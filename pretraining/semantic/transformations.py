"""The transformations of Semantic Genesis: those of Models Genesis with other numbers. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pretraining.genesis.sampling import FOUR, GenesisSettings


def _published(name: str, default: Any) -> Any:
    """The field of Models Genesis with another default."""
    return field(default=default, metadata=dict(GenesisSettings.__dataclass_fields__[name].metadata))


@dataclass(frozen=True, kw_only=True)
class SemanticTransformations(GenesisSettings):
    """Transformations of Semantic Genesis, as published by default: elastic, then one of four.

    Haghighi et al. 2020, doi:10.1007/978-3-030-59710-8_14.
    """

    transformations: tuple[str, ...] = _published("transformations", ("elastic", *FOUR))
    exclusive: bool = _published("exclusive", True)
    shuffle_windows: int = _published("shuffle_windows", 5)
    inpaint_blocks: int = _published("inpaint_blocks", 1)
    outpaint_blocks: int = _published("outpaint_blocks", 1)
    continue_probability: float = _published("continue_probability", 1.0)
