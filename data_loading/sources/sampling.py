"""What a training patch is: a pure function of (seed, epoch, step, rank, index in batch).

The same numbers give the same case, place and augmentation in every run, process and thread, so nothing
random lives in the graph and a resumed run needs two integers. The generator is counter-based (Philox,
Salmon et al. 2011, doi:10.1145/2063384.2063405).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from cases.settings import Settings, probability, setting
from data_loading.augmentation.effect import Grid
from data_loading.augmentation.pipeline import Augmentation
from data_loading.errors import LoaderError

COARSE = 0.01  # by which SpatialEffect.extremes may fall short
CASE_ORDER, PATCH = 0, 1  # two uses of a seed that must never share a stream


@dataclass(frozen=True, kw_only=True)
class PlaceSettings(Settings):
    """Where training patches lie."""

    error = LoaderError

    oversampling: float = setting(0.4, "probability that a patch is centred on foreground", check=probability)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Where a patch lies and what happens to it; ``input = matrix @ output + offset`` in voxels (D, H, W).

    Attributes:
        matrix: (3, 3); rotation, scaling and mirroring.
        offset: (3,), where the patch's first voxel is read.
        warped: whether the grid leaves the voxel centres, so that interpolation is needed.
        intensity: what the intensity effects drew, see augmentation.pipeline.Augmentation.
    """

    matrix: np.ndarray
    offset: np.ndarray
    warped: bool
    intensity: np.ndarray


def generator(*key: int) -> np.random.Generator:
    """A generator that depends on the key and on nothing else."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@lru_cache(maxsize=4)
def case_order(seed: int, epoch: int, turn: int, n_cases: int) -> np.ndarray:
    """One shuffled round of all cases; kept, for every patch of the round asks for it."""
    return generator(CASE_ORDER, seed, epoch, turn).permutation(n_cases)


@dataclass(frozen=True, kw_only=True)
class PatchSampler:
    """Draws patches. Immutable and picklable.

    Attributes:
        n_cases: cases of the training set, over all ranks.
        batch_size: draws of one rank and step.
        steps_per_epoch: of one rank.
        patch_dhw: patch in voxels; D is 1 for a 2D plan.
        channels: of the image.
        axes: 3, or 2 where a patch has no depth axis.
        oversampling: probability that a patch is centred on a foreground voxel.
        in_plane: effects leave D alone.
        mirror_axes: of (D, H, W).
        augmentation: the effects in use.
    """

    seed: int
    n_cases: int
    batch_size: int
    steps_per_epoch: int
    patch_dhw: tuple[int, int, int]
    channels: int = 1
    axes: int = 3
    rank: int = 0
    world_size: int = 1
    oversampling: float = 0.4
    in_plane: bool = False
    mirror_axes: tuple[int, ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)

    def for_rank(self, rank: int, world_size: int) -> PatchSampler:
        """The sampler of one rank among all."""
        return replace(self, rank=rank, world_size=world_size)

    def case_index(self, global_step: int, index: int) -> int:
        """Which case the ``index``-th patch of a batch comes from.

        The positions of an epoch, over all ranks, walk through one shuffled round of all cases after another:
        within an epoch no case is visited twice more often than another.
        """
        epoch, step = divmod(global_step, self.steps_per_epoch)
        position = (step * self.world_size + self.rank) * self.batch_size + index
        turn, place = divmod(position, self.n_cases)
        return int(case_order(self.seed, epoch, turn, self.n_cases)[place])

    def patch_generator(self, global_step: int, index: int) -> np.random.Generator:
        """The generator that belongs to one patch alone."""
        epoch, step = divmod(global_step, self.steps_per_epoch)
        return generator(PATCH, self.seed, epoch, step, self.rank, index)

    def draw(self, rng: np.random.Generator, shape_dhw: Sequence[int], foreground: np.ndarray) -> Patch:
        """Draw one patch of a volume.

        Args:
            rng: see :meth:`patch_generator`.
            shape_dhw: the volume's shape.
            foreground: (n, 4) rows (class, d, h, w); may be empty.
        """
        start = draw_start(rng, shape_dhw, self.patch_dhw, foreground, self.oversampling)
        matrix, warped = self.augmentation.draw_matrix(rng, self.grid)
        half = (np.asarray(self.patch_dhw) - 1) / 2
        return Patch(
            matrix=matrix,
            offset=start + half - matrix @ half,  # the patch turns about its own centre
            warped=warped,
            intensity=self.augmentation.draw_intensity(rng, self.channels, self.axes),
        )

    @property
    def grid(self) -> Grid:
        """The voxels of a patch, as spatial effects see them."""
        return Grid(patch_dhw=self.patch_dhw, in_plane=self.in_plane, mirror_axes=self.mirror_axes)

    def largest_box(self, shapes_dhw: Iterable[Sequence[int]]) -> int:
        """The most voxels that any patch of volumes of these shapes is read from (:func:`warp_box`), or a little more.

        A patch that is not warped is read, and padded, as it is.
        """
        patch = np.array(self.patch_dhw)
        if not self.augmentation.warps:
            return int(patch.prod())
        half = (patch - 1) / 2
        reach = np.abs(self.augmentation.extremes(self.grid)) @ half * (1 + COARSE)
        sides = np.floor(half + reach) - np.floor(half - reach) + _border(patch)
        return max(int(patch.prod()), *(int(np.minimum(sides, shape).prod(axis=1).max()) for shape in shapes_dhw))

    def neighbour(self, patch: Patch, index: int, run: int, depth: int) -> Patch:
        """The ``index``-th of ``run`` slices about a patch of one slice, kept inside the volume.

        All share place and augmentation, each has noise of its own. A volume thinner than the run repeats its last.
        """
        first = np.clip(patch.offset[0] - run // 2, 0, max(depth - run, 0))
        offset = np.array([min(first + index, depth - 1), *patch.offset[1:]])
        intensity = self.augmentation.neighbour(patch.intensity, self.channels, self.axes, index)
        return replace(patch, offset=offset, intensity=intensity)


def draw_start(
    rng: np.random.Generator,
    shape_dhw: Sequence[int],
    patch_dhw: Sequence[int],
    foreground: np.ndarray,
    oversampling: float,
) -> np.ndarray:
    """First voxel (3,) of a patch: uniform, or as near to a foreground voxel in its centre as the volume allows.

    The class is drawn first, evenly among those present, so that rare classes are seen as often as others.
    Where the volume is smaller than the patch it is centred, and the start is negative.
    """
    room = np.asarray(shape_dhw) - np.asarray(patch_dhw)
    wanted = rng.random() < oversampling
    start = rng.integers(0, np.maximum(room, 0) + 1)
    if wanted and len(foreground):
        rows = foreground[foreground[:, 0] == rng.choice(np.unique(foreground[:, 0]))]
        voxel = rows[rng.integers(len(rows)), 1:]
        start = np.clip(voxel - np.asarray(patch_dhw) // 2, 0, np.maximum(room, 0))
    return np.where(room < 0, room // 2, start)


def warp_box(patch: Patch, patch_dhw: Sequence[int], shape_dhw: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of a volume that a warped patch reads: (start, end), (3,) each, end > start."""
    shape = np.asarray(shape_dhw)
    half = (np.asarray(patch_dhw) - 1) / 2
    centre, reach = patch.offset + patch.matrix @ half, np.abs(patch.matrix) @ half
    start = np.clip(np.floor(centre - reach).astype(int), 0, shape - 1)
    return start, np.clip(np.floor(centre + reach).astype(int) + _border(patch_dhw), start + 1, shape)


def _border(patch_dhw: Sequence[int] | np.ndarray) -> np.ndarray:
    """How many voxels beyond the last whole one are read: a single slice stays in its plane, with no neighbour."""
    return np.where(np.asarray(patch_dhw) == 1, 1, 2)
