"""Small components of a label map become what surrounds them, and how large they must be is found on validation.

NVIDIA's rule for BraTS 2021 (arXiv:2110.03352): a component of the enhancing tumour of a few voxels, and a whole
enhancing tumour that is small, are the tumour's core. Sizes are in voxels of the scan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import ndimage

from cases.files import write_json
from cases.regions import Regions
from cases.settings import Settings, setting

SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
CaseMaps = tuple[np.ndarray, np.ndarray]  # predicted and true classes, (D, H, W)


class ComponentError(ValueError):
    """Sizes that cannot be understood, or that are of no region of the network."""


@dataclass(frozen=True, kw_only=True)
class Least:
    """The least voxels, by region or class, of a component and of all its components together."""

    component: Mapping[str, int] = field(default_factory=dict)
    volume: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.component or self.volume)


@dataclass(frozen=True, kw_only=True)
class ComponentSettings(Settings):
    """Post-processing of label maps."""

    error: ClassVar[type[ValueError]] = ComponentError

    min_component: tuple[str, ...] = setting(
        (),
        "regions or classes with their least size in voxels, such as enhancing=50: smaller components become the "
        "region around them, or the background",
        kept=False,
    )
    min_volume: tuple[str, ...] = setting(
        (), "the same for all components of a region together, such as enhancing=73", kept=False
    )
    postprocessing: Path | None = setting(
        None, "the sizes that scripts/fit_postprocessing.py found, instead of these two", kept=False
    )

    def faults(self) -> list[str]:
        given = bool(self.min_component or self.min_volume)
        return ["--postprocessing has its own sizes: not with --min_component or --min_volume"] * (
            given and self.postprocessing is not None
        )

    def of(self, labels: Sequence[str], regions: Regions | None) -> Callable[[np.ndarray], np.ndarray] | None:
        """What is done to a label map of these classes or regions; None for nothing. Raises ComponentError."""
        if self.postprocessing is not None:
            least = read_least(self.postprocessing)
        else:
            least = Least(component=_sizes(self.min_component), volume=_sizes(self.min_volume))
        nested = nested_regions(labels, regions)
        known = Least(component=_known(least.component, nested.names), volume=_known(least.volume, nested.names))
        return partial(remove_small, regions=nested, least=known) if known else None


def _sizes(texts: Sequence[str]) -> dict[str, int]:
    sizes = {}
    for text in texts:
        name, _, voxels = text.rpartition("=")
        if not name or not voxels.isdigit():
            raise ComponentError(f"{text!r} is not such as enhancing=50")
        sizes[name] = int(voxels)
    return sizes


def _known(sizes: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Sizes by the regions' full names, of which a part will do where it is in one alone."""
    found = {}
    for name, voxels in sizes.items():
        meant = [known for known in names if known == name] or [
            known for known in names if name.lower() in known.lower()
        ]
        if len(meant) != 1:
            raise ComponentError(f"least size of {name!r}: the network has {', '.join(names)}; name one of them")
        found[meant[0]] = voxels
    return found


def nested_regions(labels: Sequence[str], regions: Regions | None) -> Regions:
    """The regions themselves, or each class as a region."""
    classes = tuple(range(1, len(labels)))
    return regions or Regions(names=tuple(labels[1:]), members=tuple((value,) for value in classes), values=classes)


def remove_small(classes_dhw: np.ndarray, regions: Regions, least: Least) -> np.ndarray:
    """A copy of a label map without components, or whole regions, below their least size; the innermost go first.

    A component (26 neighbours) becomes the class of the smallest region around its own, or the background.
    """
    classes_dhw = classes_dhw.copy()
    for index in reversed(range(len(regions.names))):
        name = regions.names[index]
        component, volume = least.component.get(name, 0), least.volume.get(name, 0)
        inside = np.isin(classes_dhw, regions.members[index])
        if component:
            parts, _ = ndimage.label(inside, np.ones((3, 3, 3)))
            small = np.bincount(parts.ravel()) < component
            small[0] = False
            classes_dhw[small[parts]] = _around(regions, index)
            inside &= ~small[parts]
        if np.count_nonzero(inside) < volume:
            classes_dhw[inside] = _around(regions, index)
    return classes_dhw


def _around(regions: Regions, index: int) -> int:
    """The class that what is removed of a region becomes."""
    own = set(regions.members[index])
    wider = [other for other, group in enumerate(regions.members) if own < set(group)]
    return regions.values[min(wider, key=lambda other: len(regions.members[other]))] if wider else 0


def fit_least(cases: Callable[[], Iterable[CaseMaps]], regions: Regions, sizes: Sequence[int] = SIZES) -> Least:
    """Sizes that raise the mean Dice of validation cases, region by region, the innermost first.

    A region that is neither predicted nor true counts as Dice 1, as the challenge counts it: a false alarm costs all.

    Args:
        cases: reads all of them anew, one after the other.
        regions: of :func:`nested_regions`.
        sizes: to try; one is taken only where it is better than none, and the smallest of equals.
    """
    best = Least()
    for name in reversed(regions.names):
        for kind in ("component", "volume"):
            tried = [best, *(Least(**(asdict(best) | {kind: {**getattr(best, kind), name: size}})) for size in sizes)]
            dice = np.zeros(len(tried))
            for prediction, label in cases():
                dice += [_mean_dice(remove_small(prediction, regions, least), label, regions) for least in tried]
            best = tried[int(np.argmax(dice > dice.max() - 1e-9))]
    return best


def _mean_dice(prediction: np.ndarray, label: np.ndarray, regions: Regions) -> float:
    dice = []
    for group in regions.members:
        predicted, true = np.isin(prediction, group), np.isin(label, group)
        total = int(predicted.sum()) + int(true.sum())
        dice.append(2 * int((predicted & true).sum()) / total if total else 1.0)
    return float(np.mean(dice))


def write_least(path: Path, least: Least) -> None:
    """What predict's --postprocessing takes."""
    write_json(path, asdict(least))


def read_least(path: Path) -> Least:
    """Raises ComponentError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sizes = ({str(name): int(voxels) for name, voxels in content[kind].items()} for kind in ("component", "volume"))
        return Least(**dict(zip(("component", "volume"), sizes, strict=True)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ComponentError(
            f"{path} does not hold sizes of components ({error!r}): scripts/fit_postprocessing.py writes such a file"
        ) from error
