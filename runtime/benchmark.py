"""How a mode of ``main.py`` is measured instead of being run for its result."""

from __future__ import annotations

from dataclasses import dataclass

from cases.settings import Settings, at_least, setting


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(Settings):
    """What --benchmark measures."""

    warmup: int = setting(5, "first steps that are left out", check=at_least(0), kept=False)
    test_batches: int = setting(0, "cases of a pass, in evaluation too; 0: all", check=at_least(0), kept=False)
    constant_batch: bool = setting(
        False, "give one batch on the device again and again, so that loading costs nothing", kept=False
    )
