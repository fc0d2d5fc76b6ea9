"""Models Genesis cubes: the published generator, its file layout, and the way without cubes.

Small crops of unlabelled CT with HU clipped to +-1000 and scaled to [0, 1] (Zhou et al. 2019,
doi:10.1007/978-3-030-32251-9_42), kept away from the scan's border, crops full of soft tissue left
out. One file a fold, ``bat_<cubes a scan>_s_<rows>x<cols>x<deps>_<fold>.npy``, (n, rows, cols, deps)
with rows = W, cols = H, deps = D.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from cases.case import Intensity
from cases.files import write_array
from cases.settings import Settings, at_least, probability, setting
from cases.volumes import VolumeError, is_volume, read_volume, stem

LOOKAHEAD = 3  # slices that the tissue filter looks through, the voxel's own among them
CUBE_FILE = re.compile(r"bat_(\d+)_s_(\d+)x(\d+)x(\d+)_(\w+)\.npy")
SUBSET = re.compile(r"subset(\d+)")


class CubeError(ValueError):
    """Cubes that cannot be made, or a cube file that is not one."""


def three_sides(value: Sequence[int]) -> str:
    """The value is three numbers of at least 1."""
    return "" if len(value) == 3 and min(value) >= 1 else "is not three numbers of at least 1 (W, H, D)"


def three_margins(value: Sequence[int]) -> str:
    """The value is three numbers, none negative."""
    return "" if len(value) == 3 and min(value) >= 0 else "is not three numbers of at least 0 (W, H, D)"


def rises(value: Sequence[float]) -> str:
    """The value is two numbers, the second above the first."""
    return "" if len(value) == 2 and value[0] < value[1] else "is not two numbers of which the second is larger"


@dataclass(frozen=True, kw_only=True)
class CubeSettings(Settings):
    """Cubes of unlabelled scans, with the published generator's numbers."""

    error: ClassVar[type[ValueError]] = CubeError

    scale: int = setting(32, "cubes of a scan", check=at_least(1))
    cube_size: tuple[int, int, int] = setting(
        (64, 64, 32), "rows, cols, deps of a cube, which are (W, H, D)", check=three_sides
    )
    cube_folds: int = setting(
        10, "files that scans are dealt to where there are no subset<n> folders", check=at_least(1)
    )
    border: tuple[int, int, int] = setting(
        (100, 100, 30), "voxels (W, H, D) to stay off a scan's border; fewer in small scans", check=three_margins
    )
    hu_range: tuple[float, float] | None = setting(
        (-1000.0, 1000.0), "HU that become 0 and 1; of MRI, each scan's 0.5 and 99.5 percentiles do", check=rises
    )
    tissue_filter: bool = setting(True, "leave out cubes full of soft tissue; made for lungs, and always off for MRI")
    tissue_hu: float = setting(-150.0, "HU from which a voxel is soft tissue")
    tissue_max: float = setting(0.15, "largest share of soft tissue in a cube", check=probability)
    attempts: int = setting(100, "places tried for each cube before a scan is given up", check=at_least(1))
    seed: int = setting(1, "seed of the places; a scan's own do not depend on the others", check=at_least(0))

    def faults(self) -> list[str]:
        if self.tissue_filter and self.hu_range is None:
            return ["the tissue filter needs HU; switch it off for MRI"]
        return []

    def for_mri(self) -> CubeSettings:
        """The same for scans without a unit."""
        return replace(self, hu_range=None, tissue_filter=False)


def tissue_share(crop_dhw: np.ndarray, threshold: float, depth: int) -> float:
    """How full of soft tissue a crop is, 0 to 1.

    A voxel counts 1 - k / 2 where k in 0..2 is the first step in depth that finds ``threshold`` or
    more, 0 where none does. Slices after the first ``depth`` only serve to look ahead into; where
    the scan ends there is no tissue.
    """
    above = crop_dhw[: depth + LOOKAHEAD - 1] >= threshold
    score = np.zeros((depth, *above.shape[1:]), np.float32)
    for k in reversed(range(LOOKAHEAD)):
        found = above[k : k + depth]
        score[: len(found)][found] = 1 - k / (LOOKAHEAD - 1)
    return float(score.mean(dtype=np.float64))


def border_within(shape_dhw: Sequence[int], size_dhw: Sequence[int], wanted_dhw: Sequence[int]) -> tuple[int, int, int]:
    """How many voxels (D, H, W) cubes stay off the border on each side: at most a quarter of the room they have.

    So half of that room is left to draw places from, however small the scan.
    """
    sides = zip(shape_dhw, size_dhw, wanted_dhw, strict=True)
    d, h, w = (min(wanted, (side - cube) // 4) for side, cube, wanted in sides)
    return d, h, w


def _unit_range(image_dhw: np.ndarray, settings: CubeSettings) -> tuple[float, float]:
    if settings.hu_range is not None:
        return settings.hu_range
    low, high = np.percentile(image_dhw, (0.5, 99.5)).tolist()
    return low, high


def _scale_to_unit(image: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low if high > low else 1.0
    return np.clip((image.astype(np.float32, copy=False) - np.float32(low)) / np.float32(span), 0, 1)


def cut_cubes(
    image_dhw: np.ndarray, settings: CubeSettings, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Cubes of one scan (D, H, W) in the scan's units.

    Returns:
        (n, rows, cols, deps) float32 in [0, 1], n at most ``settings.scale``, and the border (W, H, D)
        that was kept.

    Raises:
        CubeError: if the scan is smaller than a cube.
    """
    size, shape = settings.cube_size[::-1], image_dhw.shape
    if any(side < cube for side, cube in zip(shape, size, strict=True)):
        raise CubeError(f"it is {shape} voxels (D, H, W), smaller than a cube of {size}")
    border = border_within(shape, size, settings.border[::-1])
    low, high = _unit_range(image_dhw, settings)
    cubes: list[np.ndarray] = []
    for _ in range(settings.attempts * settings.scale):
        if len(cubes) == settings.scale:
            break
        start = [int(rng.integers(b, n - s - b + 1)) for b, n, s in zip(border, shape, size, strict=True)]
        d, h, w = (slice(a, a + s) for a, s in zip(start, size, strict=True))
        ahead = slice(d.start, d.stop + LOOKAHEAD - 1)
        if settings.tissue_filter:
            share = tissue_share(image_dhw[ahead, h, w], settings.tissue_hu, size[0])
            if share > settings.tissue_max:
                continue
        cubes.append(_scale_to_unit(image_dhw[d, h, w], low, high).transpose(2, 1, 0))
    stacked = np.stack(cubes) if cubes else np.empty((0, *settings.cube_size), np.float32)
    return stacked, (border[2], border[1], border[0])


def cube_file_name(settings: CubeSettings, fold: int) -> str:
    return f"bat_{settings.scale}_s_{'x'.join(map(str, settings.cube_size))}_{fold}.npy"


def scan_folds(folder: Path, folds: int) -> dict[int, list[Path]]:
    """Scans by fold: LUNA16's ``subset<fold>`` folders, or every scan of the folder dealt in turn.

    Raises:
        CubeError: if there is no scan.
    """
    subsets = {int(m[1]): path for path in sorted(folder.glob("subset*")) if (m := SUBSET.fullmatch(path.name))}
    if subsets:
        found = {fold: sorted(filter(is_volume, path.iterdir())) for fold, path in sorted(subsets.items())}
    else:
        scans = sorted(filter(is_volume, folder.iterdir())) if folder.is_dir() else []
        found = {fold: scans[fold::folds] for fold in range(folds)}
    found = {fold: scans for fold, scans in found.items() if scans}
    if not found:
        raise CubeError(f"{folder} holds no scan (NIfTI, .mhd, .mha, .nrrd), nor LUNA16 folders subset0, subset1, ...")
    return found


@dataclass(frozen=True)
class CubeReport:
    """Files written, cubes in them, and what went wrong by scan."""

    files: tuple[Path, ...]
    cubes: int
    failed: Mapping[Path, str]


def generate_cubes(
    source: Path, target: Path, settings: CubeSettings, *, say: Callable[[str], None] = print
) -> CubeReport:
    """Scans of a folder to cube files, one a fold; a file that is there already is kept.

    One scan that cannot be read, or gives no cube, is said in a line and costs no other.

    Raises:
        CubeError: if the folder holds no scan.
    """
    by_fold = scan_folds(Path(source), settings.cube_folds)
    target.mkdir(parents=True, exist_ok=True)
    files, failed, total = [], {}, 0
    for fold, scans in by_fold.items():
        path = target / cube_file_name(settings, fold)
        if path.exists():
            say(f"{path.name}: already there with {len(open_cubes(path))} cubes, kept")
            continue
        parts = []
        for scan in scans:
            try:
                parts.append(_cubes_of_file(scan, settings, say))
            except (VolumeError, CubeError) as error:
                failed[scan] = str(error)
                say(f"{stem(scan)}: no cubes, {error}")
        count = sum(map(len, parts))
        if count:
            write_cubes(path, np.concatenate(parts))
            files.append(path)
            total += count
        say(f"{path.name}: {count} cubes of {len(scans)} scans" + ("" if count else ", not written"))
    return CubeReport(tuple(files), total, failed)


def _cubes_of_file(path: Path, settings: CubeSettings, say: Callable[[str], None]) -> np.ndarray:
    image_cdhw, _ = read_volume([path])
    if len(image_cdhw) != 1:
        raise CubeError(f"it has {len(image_cdhw)} channels; cubes are cut from scans of one")
    rng = np.random.default_rng((settings.seed, zlib.crc32(stem(path).encode())))
    cubes, border = cut_cubes(image_cdhw[0], settings, rng)
    if not len(cubes):
        raise CubeError(
            f"none of {settings.attempts * settings.scale} places passed the tissue filter; "
            "switch it off (it is for lungs) or raise tissue_max"
        )
    if border != settings.border:
        say(f"{stem(path)}: border {border} instead of {settings.border} (W, H, D), the scan is smaller")
    if len(cubes) < settings.scale:
        say(f"{stem(path)}: {len(cubes)} cubes of {settings.scale}, the tissue filter rejected the other places")
    return cubes


def write_cubes(path: Path, cubes: np.ndarray) -> None:
    """(n, rows, cols, deps) as float32, whole or not at all."""
    write_array(path, cubes.astype(np.float32, copy=False))


def open_cubes(path: Path) -> np.ndarray:
    """Memory-map a cube file: (n, rows, cols, deps), any float type; a channel axis of 1 is dropped.

    Raises:
        CubeError: naming the file, if it is missing, no .npy of floats, holds objects, or its shape is
            not what its name says.
    """
    path = Path(path)
    try:
        cubes = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CubeError(f"{path} does not exist: run preprocess.py --exec_mode cubes") from error
    except (ValueError, EOFError, OSError) as error:
        raise CubeError(f"{path} is no cube file ({error}); make or download it again") from error
    if not isinstance(cubes, np.ndarray) or cubes.dtype.kind != "f":
        raise CubeError(f"{path} is no cube file: it does not hold an array of floats")
    if cubes.ndim == 5 and cubes.shape[1] == 1:
        cubes = cubes[:, 0]
    if cubes.ndim != 4:
        raise CubeError(f"{path} has shape {cubes.shape}; cubes are (n, rows, cols, deps)")
    named = CUBE_FILE.fullmatch(path.name)
    if named and cubes.shape[1:] != tuple(map(int, named.groups()[1:4])):
        raise CubeError(f"{path} holds cubes of {cubes.shape[1:]}, its name says otherwise")
    return cubes


def read_cube(cubes: np.ndarray, index: int) -> np.ndarray:
    """One cube as a patch: (1, D, H, W) float32, contiguous.

    Raises:
        CubeError: if its values leave [0, 1].
    """
    patch = np.ascontiguousarray(cubes[index].transpose(2, 1, 0)[None], np.float32)
    if not (patch.min() >= 0 and patch.max() <= 1):
        raise CubeError(f"cube {index} holds values from {patch.min()} to {patch.max()}, not within [0, 1]")
    return patch


def find_cubes(folder: Path, folds: Sequence[int]) -> list[Path]:
    """The cube files of these folds, in their order.

    Raises:
        CubeError: naming the folds without a file, or with several.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).glob("bat_*.npy")):
        if named := CUBE_FILE.fullmatch(path.name):
            found.setdefault(named[5], []).append(path)
    wrong = [fold for fold in folds if len(found.get(str(fold), [])) != 1]
    if wrong:
        raise CubeError(f"{folder} needs exactly one file bat_*_<fold>.npy for each fold, not so for {wrong}")
    return [found[str(fold)][0] for fold in folds]


def to_unit(image_cdhw: np.ndarray, intensity: Sequence[Intensity]) -> np.ndarray:
    """Stored intensities of a preprocessed case, or of a patch of it, to [0, 1], float32.

    Channel by channel from the range that the case's json records (``CaseInfo.intensity``), clipped;
    a further channel (``ohe``) is 0 or 1 already and stays.

    Raises:
        CubeError: if the case records more channels than the image has.
    """
    if len(intensity) > len(image_cdhw):
        raise CubeError(f"the case records {len(intensity)} channels, the image has {len(image_cdhw)}")
    out = np.array(image_cdhw, np.float32)
    for channel, known in enumerate(intensity):
        out[channel] = _scale_to_unit(out[channel], known.low, known.high)
    return out
