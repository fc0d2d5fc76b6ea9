"""Mutated files one after the other, each a pure function of format, seed and number."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from tests.fuzz.mutations import Mutated, mutate
from tests.fuzz.reader import Reader, Verdict
from tests.fuzz.samples import SAMPLES

OF_ONE_SAMPLE = 20  # files


def fuzz(kind: str, files: int, seed: int) -> Iterator[tuple[int, Mutated, Verdict]]:
    """Number, file and verdict."""
    with Reader() as reader:
        for number in range(files):
            if number % OF_ONE_SAMPLE == 0:
                original = SAMPLES[kind](_rng(kind, seed, number))
            mutated = mutate(kind, original, _rng(kind, seed, number, 1))
            yield number, mutated, reader.judge(original, mutated)


def _rng(kind: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng((zlib.crc32(kind.encode()), *numbers))
