"""Overlapping regions of a tumour, predicted in the place of exclusive classes (BraTS)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cases.files import write_json
from cases.settings import Settings, setting

if TYPE_CHECKING:
    from torch import Tensor

    ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)

REGIONS_FILE = "regions.json"  # beside probabilities whose channels are regions


class RegionError(ValueError):
    """Classes that do not make up the regions, or a file that does not describe any."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Regions that nest: each is the union of some classes and lies inside the one before.

    Attributes:
        names: of the regions, the widest first.
        members: class values that make up each region.
        values: class that a voxel gets where its innermost predicted region is this one.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    values: tuple[int, ...]

    def channels(self, label: ArrayOrTensor) -> ArrayOrTensor:
        """(N, 1, ...) class values to (N, R, ...) booleans, as arrays or as tensors of the label's device."""
        shape = (len(label), len(self.members), *label.shape[2:])
        # On a GPU a table of members would be copied there in every step, and the host would wait for it.
        no_voxel: Any = label.reshape(-1)[:0] > 0  # a boolean tensor of the same device, without importing torch
        inside: Any = np.empty(shape, bool) if isinstance(label, np.ndarray) else no_voxel.new_empty(shape)
        for region, members in enumerate(self.members):
            inside[:, region] = label[:, 0] == members[0]
            for value in members[1:]:
                inside[:, region] |= label[:, 0] == value
        return inside

    def label(self, inside: ArrayOrTensor) -> ArrayOrTensor:
        """(R, ...) booleans to (...) uint8 class values: inner regions overwrite outer ones."""
        outer: Any = inside[0]
        label: Any = outer.astype(np.uint8) if isinstance(outer, np.ndarray) else outer.byte()
        label[...] = 0
        for mask, value in zip(inside, self.values, strict=True):
            label[mask] = value
        return label


@dataclass(frozen=True, kw_only=True)
class RegionSettings(Settings):
    """Regions in the place of classes."""

    brats: bool = setting(
        False, "BraTS regions (whole tumour, tumour core, enhancing tumour) in loss, metrics and inference"
    )

    def regions(self, labels: Sequence[str]) -> Regions | None:
        """Those of a dataset with these class names, or None. Raises RegionError as :func:`brats_regions`."""
        return brats_regions(labels) if self.brats else None


def brats_regions(labels: Sequence[str]) -> Regions:
    """Whole tumour, tumour core and enhancing tumour, from the classes' names (doi:10.1109/TMI.2014.2377694).

    The Decathlon's Task01 and BraTS 2021 number oedema and core differently, so the names decide.

    Raises:
        RegionError: if the names are not background, oedema, core and enhancing tumour in any order.
    """
    names = [name.lower() for name in labels]
    edema = [i for i, name in enumerate(names) if "edema" in name or "oedema" in name]
    enhancing = [i for i, name in enumerate(names) if "enhancing" in name and "non" not in name]
    core = [i for i in range(1, len(names)) if i not in edema + enhancing]
    if not len(edema) == len(enhancing) == len(core) == 1:
        raise RegionError(
            f"--brats needs classes named edema, (non-enhancing or necrotic) core and enhancing tumour, "
            f"this dataset has {', '.join(labels[1:]) or 'none'}"
        )
    e, n, c = edema[0], enhancing[0], core[0]
    return Regions(
        names=("whole tumour", "tumour core", "enhancing tumour"),
        members=(tuple(sorted((e, c, n))), tuple(sorted((c, n))), (n,)),
        values=(e, c, n),
    )


def write_regions(folder: Path, regions: Regions | None) -> None:
    """Say in ``regions.json`` what the channels of a folder's probabilities are; None: classes, without a file."""
    path = folder / REGIONS_FILE
    if regions is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, asdict(regions))


def read_regions(folder: Path) -> Regions | None:
    """What :func:`write_regions` wrote; None where channels are classes.

    Raises:
        RegionError: naming the file, where it is damaged.
    """
    path = folder / REGIONS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        members = tuple(tuple(map(int, group)) for group in content["members"])
        regions = Regions(names=tuple(content["names"]), members=members, values=tuple(map(int, content["values"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RegionError(f"{path} does not describe regions ({error!r}): predict again, or remove it") from error
    return regions
