"""Genesis transformations: corrupt a patch so that a network learns anatomy by restoring it.

Models Genesis (Zhou et al. 2019, doi:10.1007/978-3-030-32251-9_42; 2021, doi:10.1016/j.media.2020.101840)
mirrors a patch, shuffles voxels within many small windows, bends its intensities along a random
Bezier curve, and paints noise over blocks (in-painting) or over all but some blocks (out-painting);
the mirrored patch is the target. Semantic Genesis (Haghighi et al. 2020,
doi:10.1007/978-3-030-59710-8_14) deforms elastically, then does exactly one of the four; the patch
itself is the target.

Patches are (C, D, H, W) or (C, H, W), float32 in [0, 1] unless ``percentiles`` is set. A 2D patch is a
3D one of a single slice. ``sample_*`` draw parameters from a generator, ``apply_*`` are deterministic.
``transform_pair`` and ``transform_batch`` run compiled on the CPU (genesis_cpu.py);
``transform_on_device`` takes a tensor where it lies (genesis_torch.py) and computes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_loading import genesis_cpu, genesis_torch

FOUR = ("shuffle", "nonlinear", "inpaint", "outpaint")
METHODS = ("flip", "elastic", *FOUR)
Box = tuple[int, int, int, int, int, int]


class GenesisError(ValueError):
    """Settings or patches that the transformations cannot work with."""


@dataclass(frozen=True, kw_only=True)
class GenesisSettings:
    """Probabilities and ranges, the published ones by default.

    Attributes:
        methods: the transformations in use, of flip, elastic, shuffle, nonlinear, inpaint, outpaint.
            Where only one kind of painting is in use, it takes the other's share.
        exclusive: exactly one of shuffle, nonlinear, inpaint, outpaint, each alike often, their own
            probabilities unread (Semantic Genesis).
        flip_probability: of a round going on to mirror one random axis; the first that does not ends it.
        flip_rounds: the most rounds.
        flip_each_axis: instead, every axis is mirrored with flip_probability.
        shuffle_probability, shuffle_windows: how often, and windows a patch.
        shuffle_divisor: a window's side is drawn from 1 to the patch's side // this.
        nonlinear_probability, inverted_probability: how often, and the falling curve's share of it.
        percentiles: the curve's ends and the noise's range, as percentiles of each channel, such as
            (0.1, 99.9) for z-scored input; None for 0 and 1.
        paint_probability, inpaint_share: how often, and how much of it is in-painting.
        continue_probability: of another block, while the run of blocks goes on.
        margin: voxels that blocks keep off the border.
        inpaint_blocks: the most blocks; their sides lie in side // inpaint_divisors.
        outpaint_blocks: the most windows shown, the first always; their sides are the patch's side less
            a number between the outpaint_sevenths of it.
        elastic_sigma, elastic_alpha: smoothness and strength of the elastic deformation, in voxels.
        per_channel: channels are shuffled and painted each in its own way.
    """

    methods: tuple[str, ...] = ("flip", *FOUR)
    exclusive: bool = False
    flip_probability: float = 0.4
    flip_rounds: int = 3
    flip_each_axis: bool = False
    shuffle_probability: float = 0.5
    shuffle_windows: int = 10_000
    shuffle_divisor: int = 10
    nonlinear_probability: float = 0.9
    inverted_probability: float = 0.5
    percentiles: tuple[float, float] | None = None
    paint_probability: float = 0.9
    inpaint_share: float = 0.2
    continue_probability: float = 0.95
    margin: int = 3
    inpaint_blocks: int = 5
    inpaint_divisors: tuple[int, int] = (6, 3)
    outpaint_blocks: int = 5
    outpaint_sevenths: tuple[int, int] = (3, 4)
    elastic_sigma: float = 8.0
    elastic_alpha: float = 991.0
    per_channel: bool = False

    def __post_init__(self) -> None:
        faults = [f"{name} is not a method ({', '.join(METHODS)})" for name in self.methods if name not in METHODS]
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name.endswith(("_probability", "_share")) and not 0 <= value <= 1:
                faults.append(f"{name} {value} is not in [0, 1]")
        for name in ("shuffle_windows", "shuffle_divisor", "inpaint_blocks", "outpaint_blocks", "elastic_sigma"):
            if getattr(self, name) <= 0:
                faults.append(f"{name} {getattr(self, name)} is not above 0")
        if min(self.flip_rounds, self.margin) < 0:
            faults.append("flip_rounds and margin cannot be negative")
        if not self.inpaint_divisors[0] >= self.inpaint_divisors[1] >= 1:
            faults.append(f"inpaint_divisors {self.inpaint_divisors} are not larger first, both at least 1")
        if not 0 <= self.outpaint_sevenths[0] <= self.outpaint_sevenths[1] <= 7:
            faults.append(f"outpaint_sevenths {self.outpaint_sevenths} are not rising numbers in 0..7")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            faults.append(f"percentiles {self.percentiles} are not rising numbers in 0..100")
        if self.exclusive and not set(self.methods) & set(FOUR):
            faults.append(f"exclusive needs one of {', '.join(FOUR)}")
        if faults:
            raise GenesisError("Genesis: " + "; ".join(faults))

    @classmethod
    def semantic(cls, **changes: Any) -> GenesisSettings:
        """Semantic Genesis: elastic, then one of four; 5 shuffled windows, one block for each painting."""
        published: dict[str, Any] = {
            "methods": ("elastic", *FOUR),
            "exclusive": True,
            "shuffle_windows": 5,
            "inpaint_blocks": 1,
            "outpaint_blocks": 1,
            "continue_probability": 1.0,
        }
        return cls(**{**published, **changes})

    @classmethod
    def z_scored(cls, **changes: Any) -> GenesisSettings:
        """For z-scored channels, after the later version of the Genesis-for-nnU-Net code."""
        return cls(**{"percentiles": (0.1, 99.9), "flip_each_axis": True, "per_channel": True, **changes})


@dataclass(frozen=True)
class Curve:
    """Control points (x1, y1), (x2, y2) of a Bezier curve from (0, 0) to (1, 1); inverted: y(1 - t)."""

    control: tuple[float, float, float, float]
    inverted: bool


@dataclass(frozen=True)
class Painting:
    """Boxes (d0, h0, w0, d1, h1, w1), ends excluded; ``show``: they stay and the rest is noise."""

    boxes: tuple[Box, ...]
    show: bool
    seed: int


@dataclass(frozen=True)
class ChannelCorruption:
    shuffle: int | None  # the windows' seed
    curve: Curve | None
    painting: Painting | None


@dataclass(frozen=True)
class Corruption:
    """All parameters of one patch: axes of (D, H, W) to mirror, the elastic noise's seed, the channels."""

    flip_axes: tuple[int, ...]
    elastic: int | None
    channels: tuple[ChannelCorruption, ...]


def _draw(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    return low + int(rng.random() * (high - low + 1))


def _draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 63))


def sample_flip(rng: np.random.Generator, spatial_dims: int, settings: GenesisSettings) -> tuple[int, ...]:
    """Axes of (D, H, W) to mirror; an axis drawn twice is back where it was."""
    axes = range(3 - spatial_dims, 3)
    if settings.flip_each_axis:
        return tuple(axis for axis in axes if rng.random() < settings.flip_probability)
    mirrored: set[int] = set()
    for _ in range(settings.flip_rounds):
        if rng.random() >= settings.flip_probability:
            break
        mirrored ^= {_draw(rng, axes.start, 2)}
    return tuple(sorted(mirrored))


def sample_curve(rng: np.random.Generator, settings: GenesisSettings) -> Curve:
    x1, y1, x2, y2 = rng.random(4).tolist()
    return Curve((x1, y1, x2, y2), bool(rng.random() < settings.inverted_probability))


def sample_painting(
    rng: np.random.Generator, shape_dhw: Sequence[int], show: bool, settings: GenesisSettings
) -> Painting:
    """Blocks of an in-painting, or of an out-painting (``show``). They shrink to what fits."""
    ranges = []
    for side in shape_dhw:
        if show:
            ranges.append(tuple(side - part * side // 7 for part in reversed(settings.outpaint_sevenths)))
        else:
            ranges.append(tuple(side // divisor for divisor in settings.inpaint_divisors))
    boxes: list[Box] = []
    for number in range(settings.outpaint_blocks if show else settings.inpaint_blocks):
        if not (show and number == 0) and rng.random() >= settings.continue_probability:
            break
        starts, ends = [], []
        for side, (low, high) in zip(shape_dhw, ranges, strict=True):
            block = max(1, _draw(rng, low, high))
            margin = min(settings.margin, (side - block) // 2)
            start = _draw(rng, margin, side - block - margin)
            starts.append(start)
            ends.append(start + block)
        boxes.append((*starts, *ends))  # type: ignore[arg-type]
    return Painting(tuple(boxes), show, _draw_seed(rng))


def _choose(rng: np.random.Generator, settings: GenesisSettings) -> set[str]:
    """The ones of the four that happen."""
    on = [name for name in FOUR if name in settings.methods]
    if settings.exclusive:
        return {on[_draw(rng, 0, len(on) - 1)]}
    shuffle, nonlinear, paint, inpaint = rng.random(4)
    chosen = set()
    if "shuffle" in on and shuffle < settings.shuffle_probability:
        chosen.add("shuffle")
    if "nonlinear" in on and nonlinear < settings.nonlinear_probability:
        chosen.add("nonlinear")
    if paint < settings.paint_probability:
        kind = "inpaint" if inpaint < settings.inpaint_share else "outpaint"
        other = "outpaint" if kind == "inpaint" else "inpaint"
        chosen |= {kind} & set(on) or {other} & set(on)
    return chosen


def _sample_channel(
    rng: np.random.Generator, shape_dhw: Sequence[int], chosen: set[str], settings: GenesisSettings
) -> ChannelCorruption:
    painted = bool(chosen & {"inpaint", "outpaint"})
    return ChannelCorruption(
        _draw_seed(rng) if "shuffle" in chosen else None,
        sample_curve(rng, settings) if "nonlinear" in chosen else None,
        sample_painting(rng, shape_dhw, "outpaint" in chosen, settings) if painted else None,
    )


def sample(rng: np.random.Generator, shape: Sequence[int], settings: GenesisSettings) -> Corruption:
    """Draw everything for one patch of ``shape`` (C, D, H, W) or (C, H, W).

    Channels share windows and blocks unless ``per_channel``; curves and noise are always their own.
    """
    shape_dhw = (1, *shape[1:])[-3:]
    flips = sample_flip(rng, len(shape) - 1, settings) if "flip" in settings.methods else ()
    elastic = _draw_seed(rng) if "elastic" in settings.methods else None
    chosen = _choose(rng, settings)
    channels = [_sample_channel(rng, shape_dhw, chosen, settings)]
    for _ in range(1, shape[0]):
        if settings.per_channel:
            chosen = _choose(rng, settings)
        own = _sample_channel(rng, shape_dhw, chosen, settings)
        if not settings.per_channel:
            painting = channels[0].painting
            if painting is not None:
                painting = Painting(painting.boxes, painting.show, _draw_seed(rng))
            own = ChannelCorruption(channels[0].shuffle, own.curve, painting)
        channels.append(own)
    return Corruption(flips, elastic, tuple(channels))


def longest_sides(shape_dhw: Sequence[int], settings: GenesisSettings) -> tuple[int, int, int]:
    """The largest shuffled window. Sides of a patch below twice the divisor shuffle nothing along them."""
    depth, height, width = (max(1, side // settings.shuffle_divisor) for side in shape_dhw)
    return depth, height, width


def apply_flip(image_cdhw: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Mirror axes of (D, H, W). C order, a copy."""
    return np.ascontiguousarray(np.flip(image_cdhw, [axis + 1 for axis in axes]))


def apply_shuffle(image_dhw: np.ndarray, seed: int, settings: GenesisSettings) -> np.ndarray:
    """Each of ``shuffle_windows`` windows gets its untouched voxels in a random order, later over earlier."""
    low, high = genesis_cpu.words(seed)
    longest = longest_sides(image_dhw.shape, settings)
    return genesis_cpu.shuffle(image_dhw, low, high, settings.shuffle_windows, longest)


def apply_curve(image_dhw: np.ndarray, curve: Curve, ends: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Bend intensities along the curve, drawn over ``ends``; within 1e-3 of the exact curve."""
    table = genesis_cpu.curve_table(*curve.control, curve.inverted)
    return genesis_cpu.look_up(image_dhw, table, np.float32(ends[0]), np.float32(ends[1]))


def apply_painting(image_dhw: np.ndarray, painting: Painting, ends: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Uniform noise over ``ends`` inside the boxes, or outside all of them where ``painting.show``."""
    boxes = np.array(painting.boxes, np.int64).reshape(-1, 6)
    low, high = genesis_cpu.words(painting.seed)
    return genesis_cpu.paint(image_dhw, boxes, painting.show, low, high, np.float32(ends[0]), np.float32(ends[1]))


def elastic_noise(shape_dhw: Sequence[int], seed: int) -> np.ndarray:
    """(2, D, H, W) float32, uniform in [-1, 1)."""
    noise = genesis_cpu.uniform_noise(2 * int(np.prod(shape_dhw)), *genesis_cpu.words(seed))
    return (2 * noise - 1).reshape(2, *shape_dhw)


def apply_elastic(image_cdhw: np.ndarray, noise: np.ndarray, settings: GenesisSettings) -> np.ndarray:
    """In-plane deformation by smoothed noise (2, D, H, W); linear, mirrored beyond the border.

    The noise is smoothed along all three axes, with zeros around it, then scaled by alpha.
    """
    field = genesis_cpu.smooth_displacement(noise, settings.elastic_sigma, settings.elastic_alpha)
    return genesis_cpu.warp_in_plane(image_cdhw, field)


def apply(patch_cdhw: np.ndarray, corruption: Corruption, settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, target) of a (C, D, H, W) patch, both new arrays."""
    target = apply_flip(patch_cdhw, corruption.flip_axes)
    image = target
    if corruption.elastic is not None:
        image = apply_elastic(image, elastic_noise(image.shape[1:], corruption.elastic), settings)
    out = np.empty_like(image)
    for channel, (x, parameters) in enumerate(zip(image, corruption.channels, strict=True)):
        ends = (0.0, 1.0)
        if settings.percentiles is not None:
            ends = tuple(np.percentile(target[channel], settings.percentiles))
        if parameters.shuffle is not None:
            x = apply_shuffle(x, parameters.shuffle, settings)
        if parameters.curve is not None:
            x = apply_curve(x, parameters.curve, ends)
        if parameters.painting is not None:
            x = apply_painting(x, parameters.painting, ends)
        out[channel] = x
    return out, target


def transform_pair(patch: np.ndarray, seed: int, settings: GenesisSettings) -> tuple[np.ndarray, np.ndarray]:
    """(corrupted, target) of one patch, a pure function of patch, seed and settings.

    Args:
        patch: (C, D, H, W) or (C, H, W), float32, in [0, 1] unless ``settings.percentiles``.

    Raises:
        GenesisError: for other shapes and types.
    """
    if patch.ndim not in (3, 4) or patch.dtype != np.float32 or not patch.size:
        raise GenesisError(f"a Genesis patch is float32 (C, D, H, W) or (C, H, W), found {patch.dtype} {patch.shape}")
    corruption = sample(np.random.default_rng(seed), patch.shape, settings)
    shape_cdhw = (patch.shape[0], *(1, *patch.shape[1:])[-3:])
    corrupted, target = apply(np.ascontiguousarray(patch).reshape(shape_cdhw), corruption, settings)
    return corrupted.reshape(patch.shape), target.reshape(patch.shape)


def transform_batch(
    patches: np.ndarray, seeds: Sequence[int], settings: GenesisSettings
) -> tuple[np.ndarray, np.ndarray]:
    """``transform_pair`` for (N, C, ...) patches, one seed each."""
    if len(patches) != len(seeds):
        raise GenesisError(f"{len(patches)} patches need as many seeds, found {len(seeds)}")
    corrupted, targets = np.empty_like(patches), np.empty_like(patches)
    for i, (patch, seed) in enumerate(zip(patches, seeds, strict=True)):
        corrupted[i], targets[i] = transform_pair(patch, seed, settings)
    return corrupted, targets


def transform_on_device(
    patches: torch.Tensor, seeds: Sequence[int], settings: GenesisSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """``transform_batch`` for a tensor (N, C, D, H, W) or (N, C, H, W), on the tensor's own device.

    Draws the same parameters and computes the same values within 1e-5 of a curve's range.
    """
    if patches.ndim not in (4, 5) or patches.dtype != torch.float32 or len(patches) != len(seeds):
        raise GenesisError(
            "a Genesis batch is float32 (N, C, D, H, W) or (N, C, H, W) with a seed for each patch, "
            f"found {patches.dtype} {tuple(patches.shape)} and {len(seeds)} seeds"
        )
    drawn = [sample(np.random.default_rng(seed), patches.shape[1:], settings) for seed in seeds]
    batch = patches.unsqueeze(2) if patches.ndim == 4 else patches
    target = genesis_torch.flip(batch, [each.flip_axes for each in drawn])
    image = target
    if "elastic" in settings.methods:
        elastic_seeds = [each.elastic or 0 for each in drawn]
        image = genesis_torch.deform(image, elastic_seeds, settings.elastic_sigma, settings.elastic_alpha)
    rows = [channel for each in drawn for channel in each.channels]
    corrupted = genesis_torch.corrupt(
        image.reshape(-1, *image.shape[2:]),
        genesis_torch.quantile_ends(target.reshape(-1, *image.shape[2:]), settings.percentiles),
        shuffle_seeds=[row.shuffle for row in rows],
        windows=settings.shuffle_windows,
        longest=longest_sides(image.shape[2:], settings),
        curves=[None if row.curve is None else (row.curve.control, row.curve.inverted) for row in rows],
        paintings=[None if (p := row.painting) is None else (p.boxes, p.show, p.seed) for row in rows],
    )
    return corrupted.reshape(patches.shape), target.reshape(patches.shape)
