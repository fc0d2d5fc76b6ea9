"""Overlapping regions of a tumour, predicted in the place of exclusive classes (BraTS)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cases.files import write_json
from cases.plan import Plan
from cases.settings import Settings, setting

if TYPE_CHECKING:
    from torch import Tensor

    ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)

CHALLENGE = re.compile(r"brats(\d\d|-\w+-)", re.IGNORECASE)  # BraTS2021_00000, BraTS-GLI-00000-000; not BRATS_001
REGIONS_FILE = "regions.json"  # beside probabilities whose channels are regions


class RegionError(ValueError):
    """Classes that do not make up the regions, or a file that does not describe any."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Regions that overlap: each is the union of some classes, and in a label map later ones cover earlier ones.

    Attributes:
        names: of the regions, the widest first.
        members: classes that make up each region.
        values: class that a voxel gets where this is the last of its predicted regions.
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

    error = RegionError

    brats: bool = setting(
        False, "BraTS regions (whole tumour, tumour core, enhancing tumour) in loss, metrics and inference"
    )
    regions: tuple[str, ...] = setting(
        (),
        "regions by the values of the label files, the widest first, such as whole=1,2,4 core=1,4 enhancing=4; none: "
        "those of dataset.json, where it has some",
    )

    def faults(self) -> list[str]:
        return ["--brats and --regions exclude each other"] if self.brats and self.regions else []

    def of(self, plan: Plan) -> Regions | None:
        """The regions of a plan: of --regions, else of dataset.json, else of --brats; None: classes.

        Raises:
            RegionError: for regions that do not fit the plan's classes.
        """
        if specs := self.regions or plan.regions:
            return parse_regions(specs, plan.values)
        return brats_regions(plan.labels) if self.brats else None


def region_specs(regions: Mapping[str, Any], order: Sequence[int] = ()) -> tuple[str, ...]:
    """Regions of a dataset.json, {name: value or values}, as --regions takes them.

    Args:
        order: the value that each region is written as; empty: as :func:`parse_regions` finds them.

    Raises:
        ValueError, TypeError: for something else.
    """
    if order and len(order) != len(regions):
        raise ValueError(f"{len(order)} values in regions_class_order for {len(regions)} regions")
    written = [f":{int(value)}" for value in order] or [""] * len(regions)
    groups = [values if isinstance(values, list) else [values] for values in regions.values()]
    return tuple(
        f"{name}={','.join(str(int(value)) for value in group)}{own}"
        for name, group, own in zip(regions, groups, written, strict=True)
    )


def parse_regions(specs: Sequence[str], values: Sequence[int]) -> Regions:
    """Regions as --regions has them: ``name=1,2,4``, or ``name=1,2,4:2`` to say which value is written.

    A voxel gets the value of the last region that it is in; without ``:value`` that is the one that no later region
    has.

    Args:
        specs: the widest region first.
        values: the label files' values, by class.

    Raises:
        RegionError: naming the region, and the remedy.
    """
    names, groups, written = [], [], []
    for spec in specs:
        name, _, numbers = spec.rpartition("=")
        members, _, own = numbers.partition(":")
        try:
            group = [int(number) for number in members.split(",")]
            written.append(int(own) if own else None)
        except ValueError as error:
            raise RegionError(f"region {spec!r} is not such as whole=1,2,4") from error
        if not name or name in names:
            raise RegionError(f"region {spec!r} needs a name of its own, as in whole=1,2,4")
        if strange := sorted(({*group} | {written[-1] or group[0]}) - set(values[1:])):
            known = ", ".join(map(str, values[1:])) or "none"
            raise RegionError(f"region {spec!r} has values {strange}, the dataset's label files have {known}")
        names.append(name)
        groups.append(group)
    for index, (spec, group) in enumerate(zip(specs, groups, strict=True)):
        later = {value for other in groups[index + 1 :] for value in other}
        alone = sorted(set(group) - later)
        if written[index] is None and len(alone) != 1:
            raise RegionError(
                f"region {spec!r}: {len(alone)} of its values are in no later region, so it is not clear what is "
                f"written; name the widest region first, or say it, as in {spec}:{group[0]}"
            )
        written[index] = written[index] or alone[0]
    place = {value: index for index, value in enumerate(values)}
    return Regions(
        names=tuple(names),
        members=tuple(tuple(sorted({place[value] for value in group})) for group in groups),
        values=tuple(place[value] for value in written if value is not None),
    )


def check_challenge_names(labels: Sequence[str], cases: Sequence[str]) -> None:
    """Refuse names of classes that contradict what the BraTS challenge's own cases hold.

    Raises:
        RegionError: where value 1 of such cases is called oedema, as in Task01: it is the necrotic core.
    """
    challenge = [case for case in cases if CHALLENGE.match(case)]
    if challenge and len(labels) > 1 and "edema" in labels[1].lower():
        raise RegionError(
            f"--brats: {challenge[0]} is a case of the BraTS challenge, where value 1 is the necrotic core and 2 the "
            f"edema, but dataset.json calls 1 {labels[1]!r} and 2 {(*labels, '')[2]!r}: mend its names and preprocess "
            "again, give preprocess.py the challenge's own folders, or give --regions"
        )


def brats_regions(labels: Sequence[str]) -> Regions:
    """Whole tumour, tumour core and enhancing tumour, from the classes' names (doi:10.1109/TMI.2014.2377694).

    The Decathlon's Task01 and the challenge number oedema and core differently, so the names decide.

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
