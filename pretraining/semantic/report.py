"""How alike the instances of a pattern are, in numbers and cubes to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cases.case import open_array, read_info
from pretraining.semantic.patterns import RESOLUTIONS, Extents, Patterns, cut, on_scans


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Mean Pearson correlations of pairs of cubes.

    Attributes:
        within: of instances of a class.
        between: of instances of different classes.
        random: of cubes of the same scans, each at a place of its own.
    """

    within: float
    between: float
    random: float


def instances(folder: Path, patterns: Patterns, count: int) -> np.ndarray:
    """(classes, up to count, C, D, H, W): the nearest instances of every class at its own resolution."""
    return _cubes(folder, patterns, _first_rows(patterns, count))


def measure(folder: Path, patterns: Patterns, count: int = 40) -> Likeness:
    """The likeness of up to ``count`` instances of every class; as many cubes lie in memory at once."""
    rows = _first_rows(patterns, count)
    within, between = correlations(_cubes(folder, patterns, rows))
    elsewhere = _at_random_places(folder, patterns, rows)
    return Likeness(within=within, between=between, random=correlations(_cubes(folder, patterns, elsewhere))[0])


def _first_rows(patterns: Patterns, count: int) -> np.ndarray:
    """(classes, n, columns) of the index."""
    crops = RESOLUTIONS if patterns.settings.multi_res else 1
    rows = patterns.training[::crops]
    return rows.reshape(len(patterns.places), -1, rows.shape[1])[:, :count]


def _cubes(folder: Path, patterns: Patterns, rows: np.ndarray) -> np.ndarray:
    cubes = []
    for row in rows.reshape(-1, rows.shape[-1]):
        case = patterns.cases[row[1]]
        cubes.append(cut(open_array(folder, case, "x"), read_info(folder, case), row, patterns.cube_dhw))
    return np.stack(cubes).reshape(*rows.shape[:2], *cubes[0].shape)


def _at_random_places(folder: Path, patterns: Patterns, rows: np.ndarray) -> np.ndarray:
    """The same scans, each with a place of its own."""
    extents = Extents.of([read_info(folder, case) for case in patterns.cases])
    rng = np.random.default_rng(patterns.settings.seed)
    size, flat = np.array(patterns.cube_dhw), rows.reshape(-1, rows.shape[-1]).copy()
    places = rng.integers(0, extents.grid - size + 1, (len(flat), 3))
    flat[:, 2:5], flat[:, 5:] = on_scans(places, size, flat[:, 1], extents)
    return flat.reshape(rows.shape)


def correlations(cubes: np.ndarray) -> tuple[float, float]:
    """Mean correlation (within, between) of classes of cubes (classes, n, ...), by one matrix product."""
    classes, n = cubes.shape[:2]
    flat = cubes.reshape(classes * n, -1).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    alike = flat @ flat.T
    label = np.repeat(np.arange(classes), n)
    same = label[:, None] == label
    within = same & ~np.eye(len(flat), dtype=bool)
    return float(alike[within].mean()), float(alike[~same].mean())
