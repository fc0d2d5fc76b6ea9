"""From scores on the stored grid to labels on the scan's own: preprocessing, backwards.

Padding is cut off, scores are resized linearly to the cropped scan, decided, and put back into the
crop box (nnU-Net, doi:10.1038/s41592-020-01008-z). The axis that preprocessing resized by nearest
slice goes back by nearest slice. All of it happens slab by slab, in the order of the sliding window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cases.case import CaseInfo
from cases.grid import nearest_places, voxel_places
from cases.regions import Regions
from data_preprocessing.resample import anisotropic_axis
from inference.sliding_window import Slab
from runtime.transfer import Landing, send

PIECE = 2**24  # scores resized at once, at most, unless a single plane has more


@dataclass(frozen=True)
class Prediction:
    """What a network says about one scan, on the scan's own grid.

    Attributes:
        labels_dhw: uint8 class values.
        probabilities_cdhw: float16, one channel a class (or region), or None where nobody asked;
            outside the crop box 1 for the background and 0 for everything else.
    """

    labels_dhw: np.ndarray
    probabilities_cdhw: np.ndarray | None


def restore(
    slabs: Iterable[Slab], info: CaseInfo, *, regions: Regions | None = None, keep_probabilities: bool = False
) -> Prediction:
    """Labels on the scan's grid from probabilities on the stored grid; arguments of :func:`launch_restore`."""
    return launch_restore(slabs, info, regions=regions, keep_probabilities=keep_probabilities)()


def launch_restore(
    slabs: Iterable[Slab], info: CaseInfo, *, regions: Regions | None = None, keep_probabilities: bool = False
) -> Callable[[], Prediction]:
    """The same, of which a GPU may still compute the rest: what is returned waits for it.

    Args:
        slabs: covering the stored volume in order, as :meth:`SlidingWindow.stream` yields them.
        info: of the case.
        regions: channels are regions, inside where the probability is above 0.5; otherwise channels
            are classes and the most probable one wins.
        keep_probabilities: return these too, which takes two bytes a class and voxel.
    """
    shape, (start, end) = info.geometry.shape_dhw, info.crop_box
    box = tuple(slice(low, high) for low, high in zip(start, end, strict=True))
    labels = np.zeros(shape, np.uint8)
    probabilities: np.ndarray | None = None
    landing = Landing()
    for slab in to_cropped(slabs, info):
        scores = slab.scores_cdhw
        landing.put(labels[box][slab.place], decide(scores, regions))
        if not keep_probabilities:
            continue
        if probabilities is None:
            probabilities = np.zeros((len(scores), *shape), np.float16)
            if regions is None:
                probabilities[0] = 1
        landing.put(probabilities[(slice(None), *box)][(slice(None), *slab.place)], scores.half())

    def finish() -> Prediction:
        landing.wait()
        return Prediction(labels, probabilities)

    return finish


def decide(scores_cdhw: Tensor, regions: Regions | None = None) -> Tensor:
    """Class values, uint8 (D, H, W), from probabilities; among equals the lowest class wins."""
    if regions is not None:
        return regions.label(scores_cdhw > 0.5)
    return scores_cdhw.argmax(dim=0).to(torch.uint8)


def to_cropped(slabs: Iterable[Slab], info: CaseInfo) -> Iterator[Slab]:
    """Slabs of the stored grid as slabs of the scan's cropped grid, in order, of ``PIECE`` scores or a plane.

    A plane is made as soon as its two neighbours among the resampled planes are there, so that one
    plane of a slab is all that waits for the next slab.
    """
    old, new = info.shape_resampled, info.shape_cropped
    way: _Way | None = None
    kept: Tensor | None = None
    done = 0
    for slab in slabs:
        axis = slab.axis
        way = way or _Way.back(info, slab.scores_cdhw.device)
        start = max(0, slab.start - info.pad_before[axis])
        stop = min(old[axis], slab.stop - info.pad_before[axis])
        if start >= stop:
            continue
        scores = _without_padding(slab, info, start, stop)
        across = [max(old[other], new[other]) for other in range(3) if other != axis]
        planes = max(1, PIECE // (len(scores) * across[0] * across[1]))
        ready = way.ready(axis, stop)
        for low in range(done, ready, planes):
            high = min(low + planes, ready)
            piece, lines = way.part(axis, low, high)
            source = _join(kept, scores, axis, piece.start - start, piece.stop - start)
            yield Slab(axis, low, high, _resize(source, lines))
        done = max(done, ready)
        kept = scores.narrow(axis + 1, stop - start - 1, 1).clone()


@dataclass(frozen=True)
class _Line:
    """Where the new voxels of an axis lie among the old: from low towards high, a part of the way.

    The three lie on the host, where questions are asked of them, and ``there`` once more on the scores' device: an
    answer of a GPU would be waited for.
    """

    low: np.ndarray
    high: np.ndarray
    part: np.ndarray
    there: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def between(cls, old: int, new: int, *, nearest: bool, corners: bool, device: torch.device) -> _Line:
        rule = nearest_places if nearest else voxel_places
        places = rule(old, new, corners=corners).clip(0, old - 1).astype(np.float64)
        low = np.floor(places).astype(np.int64)
        part = (places - low).astype(np.float32)
        high = np.where(part > 0, low + 1, low).clip(max=old - 1)
        low_there, high_there, part_there = (send(torch.from_numpy(array), device) for array in (low, high, part))
        return cls(low, high, part, (low_there, high_there, part_there))

    def cut(self, start: int, stop: int) -> _Line:
        """The line of the new voxels [start, stop), whose first old voxel is then 0."""
        first, chosen = int(self.low[start]), slice(start, stop)
        low, high, part = self.there
        there = low[chosen] - first, high[chosen] - first, part[chosen]
        return _Line(self.low[chosen] - first, self.high[chosen] - first, self.part[chosen], there)

    def resize(self, scores_cdhw: Tensor, axis: int) -> Tensor:
        """Interpolate along one of D, H, W."""
        low, high, part = self.there
        lower = scores_cdhw
        if not np.array_equal(self.low, np.arange(lower.shape[axis + 1])):
            lower = scores_cdhw.index_select(axis + 1, low)
        if not self.part.any():
            return lower
        upper = scores_cdhw.index_select(axis + 1, high)
        return torch.lerp(lower, upper, part.reshape([-1 if dim == axis else 1 for dim in range(3)]))


@dataclass(frozen=True)
class _Way:
    """The three axes' lines from the resampled grid to the cropped one."""

    lines: tuple[_Line, ...]

    @classmethod
    def back(cls, info: CaseInfo, device: torch.device) -> _Way:
        coarse = None if info.corners else anisotropic_axis(info.geometry.spacing_mm, info.spacing_mm)
        shapes = zip(info.shape_resampled, info.shape_cropped, strict=True)
        return cls(
            tuple(
                _Line.between(n, m, nearest=axis == coarse, corners=info.corners, device=device)
                for axis, (n, m) in enumerate(shapes)
            )
        )

    def ready(self, axis: int, stop: int) -> int:
        """How many new planes need no old plane from ``stop`` on."""
        return int(np.count_nonzero(self.lines[axis].high < stop))

    def part(self, axis: int, low: int, high: int) -> tuple[range, list[_Line]]:
        """Old planes that the new planes [low, high) need, and the lines from these to those."""
        line = self.lines[axis]
        needed = range(int(line.low[low]), int(line.high[high - 1]) + 1)
        lines = list(self.lines)
        lines[axis] = line.cut(low, high)
        return needed, lines


def _without_padding(slab: Slab, info: CaseInfo, start: int, stop: int) -> Tensor:
    """The slab's resampled planes [start, stop), views without the zeros around the case."""
    scores = slab.scores_cdhw
    for axis, (before, length) in enumerate(zip(info.pad_before, info.shape_resampled, strict=True)):
        if axis == slab.axis:
            scores = scores.narrow(axis + 1, start + before - slab.start, stop - start)
        else:
            scores = scores.narrow(axis + 1, before, length)
    return scores


def _join(kept: Tensor | None, scores: Tensor, axis: int, low: int, high: int) -> Tensor:
    """Planes [low, high) of a slab, where plane -1 is the one kept from the slab before."""
    if low >= 0:
        return scores.narrow(axis + 1, low, high - low)
    assert kept is not None and low == -1
    return torch.cat([kept, scores.narrow(axis + 1, 0, high)], dim=axis + 1)


def _resize(scores_cdhw: Tensor, lines: list[_Line]) -> Tensor:
    """All three axes, those that shrink most first."""
    order = sorted(range(3), key=lambda axis: len(lines[axis].low) / scores_cdhw.shape[axis + 1])
    for axis in order:
        scores_cdhw = lines[axis].resize(scores_cdhw, axis)
    return scores_cdhw
