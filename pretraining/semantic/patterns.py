"""Self-discovery of anatomical patterns, after Semantic Genesis.

Haghighi et al. 2020, doi:10.1007/978-3-030-59710-8_14. A class is a place in a reference scan; its
instances are the same place in the scans that look most alike as a whole, by the features of an
autoencoder. No cube is stored: an index tells scan, place, size and class (files.py).

Scans of different size meet on a common grid, their median shape: a box of that grid stands for the
part of each scan that it covers once the scan is stretched to the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cases.case import CaseInfo, open_array, read_info
from cases.plan import Plan
from cases.settings import Settings, at_least, probability, setting, shown
from data_preprocessing.resample import resample_image
from pretraining.genesis.cubes import LOOKAHEAD, border_within, rises, three_margins, three_sides, tissue_share, to_unit

STORED_AS = {"cube_size": "size", "val_instances": "validation_instances"}  # in index files
COLUMNS = ("class", "scan", "d", "h", "w", "side_d", "side_h", "side_w")
RESOLUTIONS = 3  # crops of a training scan: the place itself and two of other sides
CANDIDATES = 100  # places tried in a reference scan before the next one is taken


class PatternError(ValueError):
    """Patterns that cannot be found with these scans and settings, or files that are none."""


@dataclass(frozen=True, kw_only=True)
class PatternSettings(Settings):
    """Discovery of patterns, with the published numbers."""

    error: ClassVar[type[ValueError]] = PatternError

    cube_size: tuple[int, int, int] = setting(
        (64, 64, 32), "rows, cols, deps of a cube, which are (W, H, D)", check=three_sides
    )
    classes: int = setting(44, "patterns, each of which is a class", check=at_least(2))
    instances: int = setting(200, "training scans that show a class", check=at_least(1))
    val_instances: int = setting(30, "validation scans that show a class", check=at_least(1))
    border: tuple[int, int, int] = setting(
        (100, 100, 30), "voxels (W, H, D) to stay off the border; fewer in small scans", check=three_margins
    )
    distance: float = setting(5.0, "voxels between the places of two classes, at least", check=at_least(0))
    multi_res: bool = setting(True, "two more crops of every training scan, of other sides in-plane")
    zoom: tuple[float, float] = setting(
        (50 / 64, 80 / 64), "their sides as shares of the cube's, from the first up to below the second", check=rises
    )
    shift: float = setting(10 / 64, "how far they are moved in-plane, as a share of the cube's side", check=at_least(0))
    tissue_filter: bool = setting(
        True, "leave out patterns full of soft tissue; made for lungs, and always off for MRI"
    )
    tissue_hu: float = setting(-150.0, "HU from which a voxel is soft tissue")
    tissue_max: float = setting(0.15, "largest share of soft tissue in a pattern", check=probability)
    seed: int = setting(1, "seed of reference scans, places and sides", check=at_least(0))

    def faults(self) -> list[str]:
        return [] if self.zoom[0] > 0 else [f"--zoom {shown(self.zoom)} does not begin above 0"]

    def for_plan(self, plan: Plan) -> PatternSettings:
        """The same, without the tissue filter where stored voxels do not lead back to HU."""
        return replace(self, tissue_filter=self.tissue_filter and plan.normalization[0].scheme == "ct")

    def to_json(self) -> dict[str, Any]:
        """By the names under which index files hold them."""
        return {STORED_AS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PatternSettings:
        """What :meth:`to_json` made. Raises TypeError for unknown names."""
        names = {stored: name for name, stored in STORED_AS.items()}
        fields: dict[str, Any] = {names.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Extents:
    """Where the scans lie in their stored arrays, without the padding: voxels (n, 3) in (D, H, W)."""

    start: np.ndarray
    shape: np.ndarray

    @classmethod
    def of(cls, infos: Sequence[CaseInfo]) -> Extents:
        return cls(
            start=np.array([info.pad_before for info in infos]),
            shape=np.array([info.shape_resampled for info in infos]),
        )

    @property
    def grid(self) -> np.ndarray:
        """The common grid: the median shape."""
        return np.median(self.shape, axis=0).round().astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Patterns:
    """What was found.

    Attributes:
        cases: names of the scans, in the order of the features.
        grid: (D, H, W) of the common grid.
        places: (classes, 4) int32, the reference scan and (d, h, w) of the place on the common grid.
        training, validation: (n, 8) int32, ``COLUMNS``; boxes in voxels of the scan's stored array.
        settings: that found them.
    """

    cases: tuple[str, ...]
    grid: tuple[int, int, int]
    places: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    settings: PatternSettings

    @property
    def cube_dhw(self) -> tuple[int, int, int]:
        w, h, d = self.settings.cube_size
        return d, h, w

    def to_json(self) -> dict[str, Any]:
        """All but the index itself."""
        return {
            "cases": list(self.cases),
            "grid": list(self.grid),
            "places": self.places.tolist(),
            "settings": self.settings.to_json(),
        }


Reject = Callable[[int, np.ndarray, np.ndarray], bool]


def discover(
    cases: Sequence[str],
    features: np.ndarray,
    extents: Extents,
    validation: Sequence[str],
    settings: PatternSettings,
    *,
    reject: Reject | None = None,
    say: Callable[[str], None] = print,
) -> Patterns:
    """Choose places and their instances; a pure function of its arguments.

    Args:
        cases: names of the scans.
        features: (scans, F), one vector a scan.
        extents: of the scans, in the same order.
        validation: names of the held-out scans: never a reference, and instances of the validation alone.
        reject: (scan, start, shape) -> whether a box of the scan's stored array makes no pattern.
        say: takes one line for whatever differs from the settings.

    Raises:
        PatternError: where features and scans differ, the grid is smaller than a cube, or there is no
            room for so many places.
    """
    _check(cases, features, extents)
    grid, size = extents.grid, np.array(settings.cube_size[::-1])
    if (grid < size).any():
        raise PatternError(f"the common grid {_by(grid)} (D, H, W) is smaller than a cube of {_by(size)}: lower --size")
    if (extents.shape != grid).any():
        least, most = extents.shape.min(0), extents.shape.max(0)
        say(f"scans of {_by(least)} to {_by(most)} voxels (D, H, W) meet on a common grid of {_by(grid)}")
    held_out = np.isin(cases, validation)
    seen, unseen = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(seen):
        raise PatternError("there are no training scans to find patterns in")
    rng = np.random.default_rng(settings.seed)
    places = np.array(_choose_places(rng, seen, extents, settings, reject, say), np.int32)
    centres = features[places[:, 0]]
    parts = []
    for scans, wanted, crops in (
        (seen, settings.instances, RESOLUTIONS if settings.multi_res else 1),
        (unseen, settings.val_instances, 1),
    ):
        if len(scans) < wanted:
            say(f"{len(scans)} instances a class instead of {wanted}: there are no more scans")
        chosen = scans[nearest(features[scans], centres, wanted)]
        parts.append(_index(rng, chosen, places[:, 1:], crops, extents, settings))
    d, h, w = grid.tolist()
    return Patterns(
        cases=tuple(cases), grid=(d, h, w), places=places, training=parts[0], validation=parts[1], settings=settings
    )


def _check(cases: Sequence[str], features: np.ndarray, extents: Extents) -> None:
    if features.ndim != 2 or len(features) != len(cases) or len(extents.shape) != len(cases):
        raise PatternError(f"features {features.shape} and {len(extents.shape)} scans do not fit {len(cases)} names")
    if not np.isfinite(features).all():
        raise PatternError("the features hold NaN or infinite numbers: train the autoencoder anew")


def _by(shape: np.ndarray) -> str:
    return " x ".join(map(str, shape.tolist()))


def nearest(features: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """(centres, count) rows of ``features``, nearest first; fewer where there are no more. One matrix product."""
    rows, points = features.astype(np.float64), centres.astype(np.float64)
    squared = (rows**2).sum(1) - 2 * points @ rows.T  # of the distance, less what the centre alone adds
    return np.argsort(squared, axis=1, kind="stable")[:, :count]


def _choose_places(
    rng: np.random.Generator,
    scans: np.ndarray,
    extents: Extents,
    settings: PatternSettings,
    reject: Reject | None,
    say: Callable[[str], None],
) -> list[tuple[int, ...]]:
    """(scan, d, h, w) of every class, no scan twice before all have served."""
    grid, size = extents.grid, np.array(settings.cube_size[::-1])
    border = border_within(grid.tolist(), size.tolist(), settings.border[::-1])
    if border[::-1] != settings.border:
        say(f"border {border[::-1]} instead of {settings.border} (W, H, D), the scans are smaller")
    if len(scans) < settings.classes:
        say(f"{len(scans)} training scans for {settings.classes} classes: scans serve as reference more than once")
    found: list[tuple[int, ...]] = []
    barren = 0
    for scan in _rounds(rng, scans):
        before = len(found)
        candidates = rng.integers(border, grid - size - np.array(border) + 1, (CANDIDATES, 3))
        taken = np.array([place[1:] for place in found]).reshape(-1, 3)
        apart = np.sqrt(((candidates[:, None] - taken) ** 2).sum(2)).min(1, initial=np.inf) >= settings.distance
        for place in candidates[apart]:
            start, shape = on_scans(place, size, np.array([scan]), extents)
            if reject is None or not reject(int(scan), start[0], shape[0]):
                found.append((int(scan), *place.tolist()))
                break
        barren = 0 if len(found) > before else barren + 1
        if len(found) == settings.classes:
            return found
        if barren == len(scans):
            break
    cause = "the tissue filter rejects the others" if reject else "the grid has no room for more"
    raise PatternError(
        f"only {len(found)} of {settings.classes} classes found, {cause}: lower --classes, --distance or --border"
        + (", or switch the filter off, which is made for lungs" if reject else "")
    )


def _rounds(rng: np.random.Generator, scans: np.ndarray) -> Iterator[int]:
    while True:
        yield from rng.permutation(scans)


def on_scans(
    start: np.ndarray, shape: np.ndarray, scans: np.ndarray, extents: Extents
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the common grid, (n, 3) or one for all, to boxes (n, 3) of each scan's stored array."""
    stretch = extents.shape[scans] / extents.grid
    first = np.rint(start * stretch).astype(np.int64)
    last = np.clip(np.rint((start + shape) * stretch).astype(np.int64), first + 1, None)
    return first + extents.start[scans], last - first


def _index(
    rng: np.random.Generator,
    chosen: np.ndarray,
    places: np.ndarray,
    crops: int,
    extents: Extents,
    settings: PatternSettings,
) -> np.ndarray:
    """Rows of ``COLUMNS`` for (classes, instances) scans, ``crops`` of each."""
    classes, instances = chosen.shape
    size, grid = np.array(settings.cube_size[::-1]), extents.grid
    boxes = (classes, instances, crops)
    start = np.broadcast_to(places[:, None, None], (*boxes, 3)).astype(np.int64)
    shape = np.broadcast_to(size, (*boxes, 3)).astype(np.int64)
    low, high = (np.floor(size[1:] * share).astype(np.int64) for share in settings.zoom)
    shift = np.rint(size[1:] * settings.shift).astype(np.int64)
    more = (classes, instances, crops - 1, 2)
    shape[:, :, 1:, 1:] = np.minimum(rng.integers(np.maximum(low, 1), np.maximum(high, low + 2), more), grid[1:])
    start[:, :, 1:, 1:] += rng.integers(-shift, np.maximum(shift, 1), more)
    start = np.clip(start, 0, grid - shape)
    scans = np.broadcast_to(chosen[..., None], boxes).ravel()
    first, sides = on_scans(start.reshape(-1, 3), shape.reshape(-1, 3), scans, extents)
    label = np.repeat(np.arange(classes), instances * crops)
    return np.column_stack([label, scans, first, sides]).astype(np.int32)


def tissue_rejects(folder: Path, cases: Sequence[str], settings: PatternSettings) -> Reject:
    """The tissue filter on preprocessed CT, whose stored intensities are brought back to HU."""

    def reject(scan: int, start: np.ndarray, shape: np.ndarray) -> bool:
        known = read_info(folder, cases[scan]).intensity[0]
        d, h, w = (slice(a, a + s) for a, s in zip(start, shape, strict=True))
        crop = open_array(folder, cases[scan], "x")[0, d.start : d.stop + LOOKAHEAD - 1, h, w]
        threshold = (settings.tissue_hu - known.shift) / known.scale
        return tissue_share(crop, threshold, int(shape[0])) > settings.tissue_max

    return reject


def cut(image_cdhw: np.ndarray, info: CaseInfo, row: np.ndarray, cube_dhw: Sequence[int]) -> np.ndarray:
    """The cube of one row of an index: (C, *cube_dhw) float32 in [0, 1], linearly resized.

    Args:
        image_cdhw: the stored array, such as a memory map; only the row's box is read.
        info: of the case.
        row: see ``COLUMNS``.
    """
    d, h, w = (slice(int(a), int(a) + int(s)) for a, s in zip(row[2:5], row[5:], strict=True))
    return resample_image(to_unit(image_cdhw[:, d, h, w], info.intensity), cube_dhw, order=1)
