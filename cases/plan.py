"""The plan: what a preprocessed folder holds and which network fits it.

Axes are (D, H, W), D being the last axis of the NIfTI file; a 2D plan drops D from its patch only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cases.files import write_json
from cases.label_values import value_faults

PLAN_VERSION = 1
PLAN_FILE = "plan.json"
DEPTH = 5  # the most down-samplings of a network
MIN_FMAP = 4  # smallest side of a feature map
ANISOTROPY = 3.0  # longest over shortest spacing, or patch side, from which the coarse axis is treated apart


class PlanError(ValueError):
    """A plan that is missing, unreadable, or not the one that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How one channel is brought to the network's scale.

    The scheme's table, ``NORMALIZATIONS`` of data_preprocessing/normalizations, knows which of the numbers it needs;
    they are the dataset's, in the scan's units (HU), the same for every case.

    Attributes:
        scheme: its name there, or ``module:object`` of a user's own, which no plan makes run by itself.
        lower, upper: 0.5 and 99.5 percentiles of the dataset's voxels.
        mean, std: of the same voxels.
    """

    scheme: str
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Facts that preprocessing fixes and everything after it relies on.

    Attributes:
        name: folder name of the preprocessed dataset, such as ``04_3d``.
        dataset: the dataset's own name, such as ``Task04_Hippocampus``.
        dim: 2 or 3, the network's dimensionality.
        channels: names of the scan's channels, such as ("FLAIR", "T1w"); ``ohe`` adds one at the end.
        labels: class names, the background first. A single entry: no labels.
        label_values: of label files, by class, the background's 0 first, such as (0, 1, 2, 4); (): 0, 1, 2, ...
        regions: what dataset.json has the network answer instead of classes, see :func:`cases.regions.parse_regions`.
        spacing_mm: (D, H, W) target voxel size. A 2D plan is not resampled; it holds the median.
        patch_size: (D, H, W), or (H, W) for a 2D plan.
        normalization: one for each channel in ``channels``.
        ohe: a channel that is 1 where the scan is non-zero follows the scan's channels.
        resample: whether cases have ``spacing_mm``; otherwise each keeps its own voxels, and that is the median.
        crop: whether cases are cut to the box of their non-zero voxels.
        mirror_axes: spatial axes, 0 the first of ``patch_size``, that training mirrors.
        intensities_from: the voxels behind the CT statistics: "constants", "foreground" or "not air".
        recipe: name in ``RECIPES`` of data_preprocessing/recipes, which checks what else it asks of a plan, or
            ``module:object`` of a user's own, which no plan makes run by itself.
    """

    name: str
    dataset: str
    dim: Literal[2, 3]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, ...]
    normalization: tuple[Normalization, ...]
    ohe: bool = False
    resample: bool = True
    crop: bool = True
    mirror_axes: tuple[int, ...] = ()
    intensities_from: str = "constants"
    recipe: str = "default"
    label_values: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()
    version: int = PLAN_VERSION

    def __post_init__(self) -> None:
        faults = []
        if self.version != PLAN_VERSION:
            faults.append(f"version {self.version}, this program reads {PLAN_VERSION}")
        if self.dim not in (2, 3):
            faults.append(f"dim {self.dim} is neither 2 nor 3")
        if len(self.patch_size) != self.dim or min(self.patch_size, default=0) < 1:
            faults.append(f"patch size {self.patch_size} does not fit dim {self.dim}")
        if len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0:
            faults.append(f"spacing {self.spacing_mm} is not three positive numbers")
        if len(self.normalization) != len(self.channels):
            faults.append(f"{len(self.normalization)} normalisations for {len(self.channels)} channels")
        if not self.labels:
            faults.append("no labels, not even the background")
        if self.label_values and len(self.label_values) != len(self.labels):
            faults.append(f"{len(self.label_values)} label values for {len(self.labels)} labels")
        faults += value_faults(self.values) if self.labels else []
        if not set(self.mirror_axes) <= set(range(self.dim)):
            faults.append(f"mirror axes {self.mirror_axes} are not among the {self.dim} spatial axes")
        if faults:
            raise PlanError("plan: " + "; ".join(faults))

    @property
    def in_channels(self) -> int:
        """Channels of a stored case: the scan's, and the foreground channel of ``ohe``."""
        return len(self.channels) + self.ohe

    @property
    def n_class(self) -> int:
        """Classes with the background."""
        return len(self.labels)

    @property
    def values(self) -> tuple[int, ...]:
        """The label files' values by class."""
        return self.label_values or tuple(range(self.n_class))

    @property
    def network_spacing(self) -> tuple[float, ...]:
        """Voxel size along the axes of ``patch_size``."""
        return self.spacing_mm[-self.dim :]

    @property
    def anisotropic(self) -> bool:
        """Whether rotation and scaling stay in-plane: a side or a spacing 3 times another."""
        return is_anisotropic(self.patch_size) or is_anisotropic(self.network_spacing)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_json` takes it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """Raises PlanError for unknown or missing keys and for values that make no plan."""
        known = set(cls.__dataclass_fields__)
        fields = cls.__dataclass_fields__.values()
        required = {f.name for f in fields if f.default is MISSING}
        unknown, missing = sorted(set(values) - known), sorted(required - set(values))
        if unknown or missing:
            raise PlanError(f"plan: unknown keys {unknown}, missing keys {missing}")
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            lists["normalization"] = tuple(Normalization(**n) for n in values["normalization"])
            return cls(**lists)
        except TypeError as error:
            raise PlanError(f"plan: {error}") from error

    def save(self, folder: Path) -> None:
        """Write ``plan.json`` whole or not at all."""
        write_json(Path(folder) / PLAN_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read ``plan.json``. Raises PlanError that names the folder and the remedy."""
        path = Path(folder) / PLAN_FILE
        if not path.is_file():
            raise PlanError(f"{path} does not exist: run preprocess.py first, or point --data at its output")
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError, PlanError) as error:
            raise PlanError(f"{path}: {error}; run preprocess.py again") from error

    def with_(self, **changes: Any) -> Plan:
        """A copy with some values changed, checked anew."""
        return replace(self, **changes)


def is_anisotropic(lengths: Sequence[float]) -> bool:
    """True where the longest is at least 3 times the shortest."""
    return max(lengths) >= ANISOTROPY * min(lengths)


def halvings(side: float, *, most: int = DEPTH, min_fmap: int = MIN_FMAP) -> int:
    """THE rule of halving: how often a side can be halved before its feature map falls below ``min_fmap`` voxels.

    A network halves whole voxels only, so a side has to be a multiple of 2**halvings to be halved as often.

    Args:
        side: voxels, or how many are wanted.
        most: the most halvings.
        min_fmap: smallest side of a feature map.
    """
    count = 0
    while count < most and side >= 2 * min_fmap:
        side /= 2
        count += 1
    return count


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Stages of a U-Net encoder; index 0 is full resolution.

    Attributes:
        strides: of each stage's first convolution, along the patch's axes; strides[0] is all 1.
        kernels: of each stage's convolutions.
        filters: channels of each stage.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    filters: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.strides) == len(self.kernels) == len(self.filters):
            raise PlanError(
                f"{len(self.strides)} strides, {len(self.kernels)} kernels and {len(self.filters)} "
                "filter counts: a topology has one of each for every stage"
            )

    @property
    def stages(self) -> int:
        return len(self.strides)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """A patch side must be a multiple of this, axis by axis."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


def topology(
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    depth: int = DEPTH,
    min_fmap: int = MIN_FMAP,
    filters: Sequence[int] | None = None,
    more_chn: bool = False,
) -> Topology:
    """Strides, kernels and filters that suit a patch (nnU-Net, doi:10.1038/s41592-020-01008-z).

    An axis is halved while its voxels are at most twice the finest and its feature map keeps at
    least ``min_fmap`` voxels; a coarser axis waits, with kernel 1, until the others caught up.

    Args:
        patch_size: voxels along each spatial axis.
        spacing_mm: voxel size along the same axes.
        depth: the most down-samplings.
        min_fmap: smallest side of a feature map.
        filters: channels of each stage; None for 32, 64, 128, 256, then 320 (3D) or 512 (2D).
        more_chn: 64, 96, 128, 192, 256, 384, 512, 768, 1024 instead.

    Raises:
        PlanError: if ``filters`` has fewer entries than there are stages.
    """
    dim = len(patch_size)
    sizes, spacing = list(patch_size), list(spacing_mm)
    strides, kernels = [(1,) * dim], []
    while len(strides) <= depth:
        fine = [length <= 2 * min(spacing) for length in spacing]
        halve = [
            ok and side % 2 == 0 and halvings(side, most=1, min_fmap=min_fmap) == 1
            for ok, side in zip(fine, sizes, strict=True)
        ]
        kernels.append(tuple(3 if ok else 1 for ok in fine))
        if not any(halve):
            break
        stride = tuple(2 if yes else 1 for yes in halve)
        strides.append(stride)
        sizes = [side // s for side, s in zip(sizes, stride, strict=True)]
        spacing = [length * s for length, s in zip(spacing, stride, strict=True)]
    kernels = [*kernels[: len(strides) - 1], (3,) * dim]  # the bottleneck always sees all axes

    if filters is None and more_chn:
        filters = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
    if filters is None:
        filters = [min(32 * 2**i, 320 if dim == 3 else 512) for i in range(len(strides))]
    if len(filters) < len(strides):
        raise PlanError(f"{len(strides)} stages need as many filters, got {list(filters)}; or lower --depth")
    return Topology(strides=tuple(strides), kernels=tuple(kernels), filters=tuple(filters[: len(strides)]))
