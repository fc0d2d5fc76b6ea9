"""A preprocessed case on disk: written whole or not at all, read through memory maps.

<case>_x.npy       image_cdhw, float32 or float16
<case>_y.npy       label, uint8, (1, D, H, W); absent for a scan without labels
<case>_orig_y.npy  label on the scan's own grid within the crop box, before resampling
<case>_fg.npy      int32, rows (class, d, h, w): voxels of ``_y`` drawn evenly from each class present
<case>.json        CaseInfo; written last, so that a case without it does not exist
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cases.files import save_array, whole_file
from cases.volumes.geometry import Geometry

CASE_VERSION = 1
OTHER_FILES = ("plan", "dataset", "splits")  # <name>.json of a folder that are no cases
Box = tuple[tuple[int, int, int], tuple[int, int, int]]


class CaseError(ValueError):
    """A case that is missing, damaged, or not what its json says."""


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """One stored channel's way back to the scan's units, and its range.

    raw = stored * scale + shift, where the scan was not clipped. ``low`` and ``high`` are the 0.5
    and 99.5 percentiles of the stored values (of non-zero voxels for "zscore"): the range that
    Genesis maps to [0, 1].
    """

    shift: float
    scale: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class CaseInfo:
    """What turns a prediction on the stored grid into one on the scan's own.

    scan --crop_box--> cropped --resample--> resampled --pad_before--> stored; all boxes and shapes
    (D, H, W), boxes as (start, end). With ``corners`` the centres of the corner voxels lie on each
    other in cropped and resampled (recipe medicalnet), otherwise the corners of the grids do.
    """

    case: str
    images: tuple[str, ...]
    label: str | None
    geometry: Geometry
    crop_box: Box
    shape_resampled: tuple[int, int, int]
    pad_before: tuple[int, int, int]
    shape_stored: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensity: tuple[Intensity, ...]
    voxels_per_class: tuple[int, ...]
    seconds: float
    corners: bool = False
    version: int = CASE_VERSION

    @property
    def shape_cropped(self) -> tuple[int, int, int]:
        start, end = self.crop_box
        return (end[0] - start[0], end[1] - start[1], end[2] - start[2])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaseInfo:
        """Raises CaseError for other versions and for keys that are unknown or missing."""
        if values.get("version") != CASE_VERSION:
            raise CaseError(f"case version {values.get('version')}, this program reads {CASE_VERSION}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            fields["geometry"] = Geometry.from_json(values["geometry"])
            fields["crop_box"] = tuple(tuple(corner) for corner in values["crop_box"])
            fields["intensity"] = tuple(Intensity(**channel) for channel in values["intensity"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise CaseError(f"not a case of version {CASE_VERSION}: {error}") from error


def write_case(
    folder: Path,
    info: CaseInfo,
    image_cdhw: np.ndarray,
    label: np.ndarray | None = None,
    original_label: np.ndarray | None = None,
    foreground: np.ndarray | None = None,
) -> None:
    """Write every file of a case to a temporary name, then rename all, the json last."""
    arrays = {"_x": image_cdhw, "_y": label, "_orig_y": original_label, "_fg": foreground}
    with ExitStack() as files:  # renamed in the reverse order of their opening
        description = files.enter_context(whole_file(folder / f"{info.case}.json"))
        for suffix, array in arrays.items():
            if array is not None:
                save_array(files.enter_context(whole_file(folder / f"{info.case}{suffix}.npy")), array)
        description.write_text(json.dumps(info.to_json()) + "\n", encoding="utf-8")


def list_cases(folder: Path) -> list[str]:
    """Sorted names of the whole cases in a folder."""
    return sorted(path.stem for path in Path(folder).glob("*.json") if path.stem not in OTHER_FILES)


def name_faults(cases: Iterable[str]) -> dict[str, str]:
    """Cases whose files would be taken for other ones, and why, in words with a remedy."""
    names = set(cases)
    faults = {name: f"{name}.json is the folder's own file, not a case's" for name in names.intersection(OTHER_FILES)}
    for name in names:
        if f"{name}_orig" in names:
            faults[f"{name}_orig"] = f"its label's file would be {name}_orig_y.npy, which is {name}'s"
    return {name: f"{fault}; rename the case" for name, fault in faults.items()}


def read_info(folder: Path, case: str) -> CaseInfo:
    """Raises CaseError naming the file."""
    path = Path(folder) / f"{case}.json"
    try:
        return CaseInfo.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CaseError(f"{path} does not exist: run preprocess.py for this case") from error
    except (json.JSONDecodeError, UnicodeDecodeError, CaseError) as error:
        raise CaseError(f"{path}: {error}; delete it and run preprocess.py again") from error


def open_array(folder: Path, case: str, suffix: str) -> np.ndarray:
    """Memory-map ``<case>_<suffix>.npy`` (suffix x, y, orig_y or fg). Raises CaseError naming the file."""
    path = Path(folder) / f"{case}_{suffix}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CaseError(f"{path} does not exist: run preprocess.py for this case") from error
    except (ValueError, EOFError, OSError) as error:
        raise CaseError(f"{path} cannot be read ({error}); delete {case}.json and run preprocess.py again") from error


def has_label(folder: Path, case: str) -> bool:
    return (Path(folder) / f"{case}_y.npy").is_file()
