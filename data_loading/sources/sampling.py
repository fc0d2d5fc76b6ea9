"""What a training patch is: a pure function of (seed, epoch, step, rank, index in batch).

The same numbers give the same case, place and augmentation in every run, process and thread, so nothing
random lives in the graph and a resumed run needs two integers. The generator is counter-based (Philox,
Salmon et al. 2011, doi:10.1145/2063384.2063405).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

CASE_ORDER, PATCH = 0, 1  # two uses of a seed that must never share a stream


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Probabilities and ranges of the augmentations; the defaults are nnU-Net v2's.

    Isensee et al. 2021, doi:10.1038/s41592-020-01008-z. A probability of 0 switches one off.

    Attributes:
        rotation, rotation_deg: probability; largest angle about each axis. None: 30 in 3D, 180 where only
            the plane turns, 15 where that plane is longer than 1.5 times its width.
        scaling, scaling_range: probability; factor on the region read (above 1 shows more, smaller).
        noise, noise_variance: probability; range of the variance.
        blur, blur_sigma, blur_channel: probability; voxels, drawn by channel and axis; share of channels.
        brightness, brightness_range: probability; factor, by channel.
        contrast, contrast_range: probability; factor about the mean, the range kept, by channel.
        low_resolution, low_resolution_zoom, low_resolution_channel: probability; side of the coarse grid
            relative to the patch; share of channels.
        gamma_inverted, gamma, gamma_range: probabilities of the power curve on the inverted and on the
            plain image, and its exponents, by channel; mean and deviation are kept.
        mirror: probability of each mirror axis.
    """

    rotation: float = 0.2
    rotation_deg: float | None = None
    scaling: float = 0.2
    scaling_range: tuple[float, float] = (0.7, 1.4)
    noise: float = 0.1
    noise_variance: tuple[float, float] = (0.0, 0.1)
    blur: float = 0.2
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    blur_channel: float = 0.5
    brightness: float = 0.15
    brightness_range: tuple[float, float] = (0.75, 1.25)
    contrast: float = 0.15
    contrast_range: tuple[float, float] = (0.75, 1.25)
    low_resolution: float = 0.25
    low_resolution_zoom: tuple[float, float] = (0.5, 1.0)
    low_resolution_channel: float = 0.5
    gamma_inverted: float = 0.1
    gamma: float = 0.3
    gamma_range: tuple[float, float] = (0.7, 1.5)
    mirror: float = 0.5

    def __post_init__(self) -> None:
        faults = [
            f"{name} {value} is not a probability"
            for name in (*EFFECTS, "blur_channel", "low_resolution_channel")
            if not 0 <= (value := getattr(self, name)) <= 1
        ]
        positive = ("scaling_range", "blur_sigma", "brightness_range", "contrast_range", "low_resolution_zoom")
        for name in (*positive, "gamma_range", "noise_variance"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (low == 0 and name != "noise_variance"):
                faults.append(f"{name} {(low, high)} is not a range of positive numbers")
        if self.low_resolution_zoom[1] > 1:
            faults.append(f"low_resolution_zoom {self.low_resolution_zoom} exceeds 1")
        if faults:
            raise ValueError("augmentation: " + "; ".join(faults))

    @classmethod
    def none(cls) -> AugmentationSettings:
        """Every effect off, mirroring too."""
        return cls(**dict.fromkeys(EFFECTS, 0.0))  # type: ignore[arg-type]

    def only(self, *effects: str) -> AugmentationSettings:
        """These effects always, every other one never; for tests and pictures."""
        share = {name: float(name in effects) for name in EFFECTS}
        return replace(self, **share, blur_channel=1.0, low_resolution_channel=1.0)  # type: ignore[arg-type]


EFFECTS = (
    *("rotation", "scaling", "noise", "blur", "brightness", "contrast"),
    *("low_resolution", "gamma_inverted", "gamma", "mirror"),
)


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Intensity parameters of one patch, each by channel; 0 means that the effect is off.

    Attributes:
        blur: (C, axes) sigma in voxels.
        brightness, contrast, zoom, gamma_inverted, gamma: (C,).
    """

    blur: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    zoom: np.ndarray
    gamma_inverted: np.ndarray
    gamma: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Where a patch lies and what happens to it; ``input = matrix @ output + offset`` in voxels (D, H, W).

    Attributes:
        matrix: (3, 3); rotation, scaling and mirroring.
        offset: (3,), where the patch's first voxel is read.
        warped: whether the grid leaves the voxel centres, so that interpolation is needed.
        noise_seed: 32 bits.
        noise_std: 0 for none.
        intensity: the rest.
    """

    matrix: np.ndarray
    offset: np.ndarray
    warped: bool
    noise_seed: int
    noise_std: float
    intensity: Intensity


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
        oversampling: probability that a patch is centred on a foreground voxel.
        in_plane: rotate, scale and coarsen in H and W only.
        mirror_axes: of (D, H, W).
    """

    seed: int
    n_cases: int
    batch_size: int
    steps_per_epoch: int
    patch_dhw: tuple[int, int, int]
    channels: int = 1
    rank: int = 0
    world_size: int = 1
    oversampling: float = 0.4
    in_plane: bool = False
    mirror_axes: tuple[int, ...] = ()
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

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
        linear, warped = draw_linear(rng, self.augmentation, self.patch_dhw, self.in_plane)
        for axis in self.mirror_axes:
            if rng.random() < self.augmentation.mirror:
                linear[:, axis] *= -1
        half = (np.asarray(self.patch_dhw) - 1) / 2
        low, high = self.augmentation.noise_variance
        noisy = rng.random() < self.augmentation.noise
        return Patch(
            matrix=linear,
            offset=start + half - linear @ half,  # the patch turns about its own centre
            warped=warped,
            noise_seed=int(rng.integers(2**32)),
            noise_std=math.sqrt(rng.uniform(low, high)) if noisy else 0.0,
            intensity=draw_intensity(rng, self.augmentation, self.channels, self.patch_dhw, self.in_plane),
        )


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


def rotation_limit(augmentation: AugmentationSettings, patch_dhw: Sequence[int], in_plane: bool) -> float:
    """The largest angle in degrees, nnU-Net's rule where none is set."""
    if augmentation.rotation_deg is not None:
        return augmentation.rotation_deg
    if not in_plane:
        return 30.0
    plane = patch_dhw[1:]
    return 15.0 if patch_dhw[0] == 1 and max(plane) > 1.5 * min(plane) else 180.0


def draw_linear(
    rng: np.random.Generator, augmentation: AugmentationSettings, patch_dhw: Sequence[int], in_plane: bool
) -> tuple[np.ndarray, bool]:
    """Rotation and scaling as a (3, 3) matrix from output to input voxels, and whether there is any."""
    turned, scaled = rng.random(2) < (augmentation.rotation, augmentation.scaling)
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * rotation_limit(augmentation, patch_dhw, in_plane)) * turned
    scale = rng.uniform(*augmentation.scaling_range) if scaled else 1.0
    matrix = np.eye(3)
    for axis in (0,) if in_plane else (0, 1, 2):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angles[axis])
        turn[a, b], turn[b, a] = -math.sin(angles[axis]), math.sin(angles[axis])
        matrix = matrix @ turn
    return matrix * ((1.0, scale, scale) if in_plane else scale), bool(turned or scaled)


def draw_intensity(
    rng: np.random.Generator,
    augmentation: AugmentationSettings,
    channels: int,
    patch_dhw: Sequence[int],
    in_plane: bool,
) -> Intensity:
    """Everything that changes grey values but not their place, noise apart."""
    aug = augmentation
    axes = 2 if patch_dhw[0] == 1 else 3
    blurred = (rng.random() < aug.blur) & (rng.random(channels) < aug.blur_channel)
    coarse = (rng.random() < aug.low_resolution) & (rng.random(channels) < aug.low_resolution_channel)
    return Intensity(
        blur=(rng.uniform(*aug.blur_sigma, (channels, axes)) * blurred[:, None]).astype(np.float32),
        brightness=_around_one(rng, aug.brightness, aug.brightness_range, channels),
        contrast=_around_one(rng, aug.contrast, aug.contrast_range, channels),
        zoom=(rng.uniform(*aug.low_resolution_zoom, channels) * coarse).astype(np.float32),
        gamma_inverted=_around_one(rng, aug.gamma_inverted, aug.gamma_range, channels),
        gamma=_around_one(rng, aug.gamma, aug.gamma_range, channels),
    )


def _around_one(rng: np.random.Generator, share: float, limits: tuple[float, float], channels: int) -> np.ndarray:
    """A factor for each channel, below one as often as above where the range holds both; 0 if there is none."""
    low, high = limits
    below = (rng.random(channels) < 0.5) & (low < 1) if high > 1 else np.full(channels, True)
    lower = rng.uniform(low, min(high, 1.0) if low < 1 else high, channels)
    upper = rng.uniform(max(low, 1.0) if high > 1 else low, high, channels)
    return (np.where(below, lower, upper) * (rng.random() < share)).astype(np.float32)


def warp_box(patch: Patch, patch_dhw: Sequence[int], shape_dhw: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of a volume that a warped patch reads: (start, end), (3,) each, end > start."""
    shape = np.asarray(shape_dhw)
    half = (np.asarray(patch_dhw) - 1) / 2
    centre, reach = patch.offset + patch.matrix @ half, np.abs(patch.matrix) @ half
    start = np.clip(np.floor(centre - reach).astype(int), 0, shape - 1)
    width = np.where(np.asarray(patch_dhw) == 1, 1, 2)  # a single slice stays in its plane: no neighbour is mixed in
    return start, np.clip(np.floor(centre + reach).astype(int) + width, start + 1, shape)


def dali_matrix(matrix: np.ndarray, offset: np.ndarray, axes: int) -> np.ndarray:
    """The (axes, axes + 1) float32 matrix of ``fn.warp_affine``: x, y, z order, pixel centres at 0.5."""
    matrix, offset = matrix[-axes:, -axes:], offset[-axes:]
    shift = offset + 0.5 - matrix @ np.full(axes, 0.5)
    return np.concatenate([matrix[::-1, ::-1], shift[::-1, None]], axis=1, dtype=np.float32)


def neighbouring_slice(patch: Patch, index: int, run: int, depth: int) -> Patch:
    """The ``index``-th of ``run`` slices about a patch of one slice, kept inside the volume.

    All share place and augmentation, each has noise of its own. A volume thinner than the run repeats its last.
    """
    first = np.clip(patch.offset[0] - run // 2, 0, max(depth - run, 0))
    offset = np.array([min(first + index, depth - 1), *patch.offset[1:]])
    return replace(patch, offset=offset, noise_seed=(patch.noise_seed + index) % 2**32)
