"""What the Genesis transformations draw: settings, and one patch's parameters from a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
