"""What the Genesis transformations draw: settings, and one patch's parameters from a generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from cases.settings import Settings, above, at_least, setting

FOUR = ("shuffle", "nonlinear", "inpaint", "outpaint")
TRANSFORMATIONS = ("flip", "elastic", *FOUR)
Box = tuple[int, int, int, int, int, int]


class GenesisError(ValueError):
    """Settings or patches that the transformations cannot work with."""


def _transformations(names: tuple[str, ...]) -> str:
    wrong = [name for name in names if name not in TRANSFORMATIONS]
    known = ", ".join(TRANSFORMATIONS)
    return f"cannot be used: {', '.join(wrong)} is not a method ({known})" if wrong else ""


def _falling_divisors(value: tuple[int, ...]) -> str:
    return "" if len(value) == 2 and value[0] >= value[1] >= 1 else "are not two numbers, larger first, at least 1"


def _rising_sevenths(value: tuple[int, ...]) -> str:
    return "" if len(value) == 2 and 0 <= value[0] <= value[1] <= 7 else "are not two rising numbers in 0..7"


def _rising_percentiles(value: tuple[float, ...]) -> str:
    return "" if len(value) == 2 and 0 <= value[0] < value[1] <= 100 else "are not two rising numbers in 0..100"


def _share(value: float) -> str:
    return "" if 0 <= value <= 1 else "is not in [0, 1]"


@dataclass(frozen=True, kw_only=True)
class GenesisSettings(Settings):
    """Transformations of Models Genesis, as published by default."""

    error: ClassVar[type[ValueError]] = GenesisError

    transformations: tuple[str, ...] = setting(
        ("flip", *FOUR),
        f"the ones in use, of {', '.join(TRANSFORMATIONS)}; where only one kind of painting is, it takes the other's "
        "share",
        flags=("--methods",),
        check=_transformations,
    )
    exclusive: bool = setting(
        False,
        "exactly one of shuffle, nonlinear, inpaint and outpaint for each patch, with equal probability; their own "
        "probabilities are not read (Semantic Genesis)",
    )
    flip_probability: float = setting(
        0.4,
        "probability that a further round mirrors one random axis; the first round that does not is the last",
        check=_share,
    )
    flip_rounds: int = setting(3, "most rounds of mirroring", check=at_least(0))
    flip_each_axis: bool = setting(False, "instead of rounds, mirror each axis with --flip_probability")
    shuffle_probability: float = setting(0.5, "probability of local shuffling", check=_share)
    shuffle_windows: int = setting(10_000, "shuffled windows in a patch", check=above(0))
    shuffle_divisor: int = setting(
        10, "a window's side is drawn from 1 to the patch's side divided by this", check=above(0)
    )
    nonlinear_probability: float = setting(0.9, "probability of bending the intensities", check=_share)
    inverted_probability: float = setting(0.5, "probability that the curve falls, where there is one", check=_share)
    percentiles: tuple[float, ...] | None = setting(
        None,
        "ends of the curve and range of the noise, as percentiles of each channel, such as 0.1 99.9 for z-scored "
        "patches; None: 0 and 1",
        check=_rising_percentiles,
    )
    paint_probability: float = setting(0.9, "probability of painting", check=_share)
    inpaint_share: float = setting(0.2, "share of in-painting in all painting", check=_share)
    continue_probability: float = setting(
        0.95, "probability of another block; the first that does not come ends the run", check=_share
    )
    margin: int = setting(3, "voxels between blocks and the patch's border", check=at_least(0))
    inpaint_blocks: int = setting(5, "most blocks of an in-painting", check=above(0))
    inpaint_divisors: tuple[int, ...] = setting(
        (6, 3),
        "a block's side lies between the patch's side divided by the first and by the second",
        check=_falling_divisors,
    )
    outpaint_blocks: int = setting(5, "most windows that an out-painting shows, at least one", check=above(0))
    outpaint_sevenths: tuple[int, ...] = setting(
        (3, 4),
        "such a window's side is the patch's side less a number of voxels between these sevenths of it",
        check=_rising_sevenths,
    )
    elastic_sigma: float = setting(8.0, "smoothness of the elastic deformation, in voxels", check=above(0))
    elastic_alpha: float = setting(991.0, "strength of the elastic deformation, in voxels")
    per_channel: bool = setting(False, "shuffle and paint each channel in its own way")

    def faults(self) -> list[str]:
        if self.exclusive and not set(self.transformations) & set(FOUR):
            return [f"--exclusive needs one of {', '.join(FOUR)}"]
        return []


def assignments(texts: Sequence[str], kind: type[GenesisSettings] = GenesisSettings) -> dict[str, Any]:
    """Fields of the transformations from ``name=value``, values as in JSON: what ``--genesis`` takes.

    Raises:
        GenesisError: for names that are no field and values that do not fit.
    """
    known = {entry.name for entry in fields(kind)} - {"transformations"}
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise GenesisError(f"--genesis {text}: {name} is none of {', '.join(sorted(known))}")
        try:
            found = json.loads(value)
        except json.JSONDecodeError as error:
            raise GenesisError(f"--genesis {text}: give {name}=VALUE, a value as in JSON") from error
        values[name] = tuple(found) if isinstance(found, list) else found
    try:
        kind(**values)
    except (TypeError, IndexError) as error:
        raise GenesisError(f"--genesis {' '.join(texts)}: {error}") from error
    return values


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
class DrawnChannel:
    """Parameters of one channel; None leaves a step out."""

    shuffle: int | None  # the windows' seed
    curve: Curve | None
    painting: Painting | None


@dataclass(frozen=True)
class Drawn:
    """All parameters of one patch: axes of (D, H, W) to mirror, the elastic noise's seed, the channels."""

    flip_axes: tuple[int, ...]
    elastic: int | None
    channels: tuple[DrawnChannel, ...]


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
    on = [name for name in FOUR if name in settings.transformations]
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
) -> DrawnChannel:
    painted = bool(chosen & {"inpaint", "outpaint"})
    return DrawnChannel(
        _draw_seed(rng) if "shuffle" in chosen else None,
        sample_curve(rng, settings) if "nonlinear" in chosen else None,
        sample_painting(rng, shape_dhw, "outpaint" in chosen, settings) if painted else None,
    )


def sample(rng: np.random.Generator, shape: Sequence[int], settings: GenesisSettings) -> Drawn:
    """Draw everything for one patch of ``shape`` (C, D, H, W) or (C, H, W).

    Channels share windows and blocks unless ``per_channel``; curves and noise are always their own.
    """
    shape_dhw = (1, *shape[1:])[-3:]
    flips = sample_flip(rng, len(shape) - 1, settings) if "flip" in settings.transformations else ()
    elastic = _draw_seed(rng) if "elastic" in settings.transformations else None
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
            own = DrawnChannel(channels[0].shuffle, own.curve, painting)
        channels.append(own)
    return Drawn(flips, elastic, tuple(channels))
