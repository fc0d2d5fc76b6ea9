"""Patterns on disk: the features they come from, our index of them, and the published layout.

features.npy, features.json         (scans, F) float32, and the scans' names
patterns_fold<f>.npy, .json         the index, int32 rows of patterns.COLUMNS, training rows first; the
                                    json, written last, holds version, names, places and settings
train_data<k>_vwGen_ex_ref_fold<f>.npy, train_label<k>_..., k = 1, 2, 3, one a resolution, and
val_data1_..., val_label1_...       as the authors of Semantic Genesis publish them: cubes (n, 1, rows,
                                    cols, deps) and labels (n,), rows = W, cols = H, deps = D
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cases.case import open_array, read_info
from cases.files import whole_file, write_array, write_json
from cases.settings import Settings, setting
from pretraining.semantic.patterns import (
    COLUMNS,
    RESOLUTIONS,
    Extents,
    PatternError,
    Patterns,
    PatternSettings,
    cut,
    discover,
    tissue_rejects,
)

FILES_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PatternFileSettings(Settings):
    """Files of patterns."""

    error: ClassVar[type[ValueError]] = PatternError

    features: Path = setting(
        help="features.npy of main.py --exec_mode pretrain --method autoencoder, of the preprocessed folder"
    )
    write_cubes: bool = setting(False, "write the cubes too, as published (many gigabytes)")


def write_features(path: Path, cases: Sequence[str], features: np.ndarray) -> None:
    """``path`` (.npy) and the json beside it, the json last; each whole or not at all."""
    write_array(path, features.astype(np.float32))
    write_json(path.with_suffix(".json"), {"version": FILES_VERSION, "cases": list(cases)}, indent=None)


def read_features(path: Path) -> tuple[list[str], np.ndarray]:
    """(names, (scans, F) float32). Raises PatternError naming the file."""
    path = Path(path)
    values = _read_json(path.with_suffix(".json"), "--exec_mode pretrain --method autoencoder writes features")
    features = _read_array(path)
    cases = values.get("cases")
    if not isinstance(cases, list) or features.ndim != 2 or len(features) != len(cases):
        raise PatternError(f"{path} has shape {features.shape}, which does not fit the names in {path.stem}.json")
    return cases, features


def index_path(folder: Path, fold: int) -> Path:
    """Where the index of a fold lies, by default, for a preprocessed folder."""
    return Path(folder) / "patterns" / f"patterns_fold{fold}.npy"


def find_patterns(
    folder: Path,
    features: Path,
    validation: Sequence[str],
    settings: PatternSettings,
    target: Path,
    *,
    say: Callable[[str], None] = print,
) -> Patterns:
    """Discover patterns in a preprocessed folder and write their index to ``target`` (.npy).

    An index that is there already, of the same scans, features and settings, is kept.

    Raises:
        PatternError, CaseError: for features of other scans, and as :func:`patterns.discover`.
    """
    cases, vectors = read_features(features)
    origin = _digest(vectors, cases, sorted(validation), settings.to_json())
    if target.with_suffix(".json").is_file() and _read_json(target.with_suffix(".json"), "").get("origin") == origin:
        say(f"{target} is there already, of the same features and settings, and is kept")
        return read_patterns(target)
    extents = Extents.of([read_info(folder, case) for case in cases])
    reject = tissue_rejects(folder, cases, settings) if settings.tissue_filter else None
    patterns = discover(cases, vectors, extents, validation, settings, reject=reject, say=say)
    write_patterns(target, patterns, origin)
    return patterns


def _digest(features: np.ndarray, *others: Any) -> str:
    text = hashlib.sha256(features.tobytes())
    text.update(json.dumps(others).encode())
    return text.hexdigest()[:16]


def write_patterns(path: Path, patterns: Patterns, origin: str = "") -> None:
    """The index; ``origin`` tells apart what it was found from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    write_array(path, np.concatenate([patterns.training, patterns.validation]))
    header = {"version": FILES_VERSION, "origin": origin, "columns": list(COLUMNS), "training": len(patterns.training)}
    write_json(path.with_suffix(".json"), header | patterns.to_json(), indent=None)


def read_patterns(path: Path) -> Patterns:
    """Raises PatternError naming the file, for one that is missing, damaged or of another version."""
    path = Path(path)
    values = _read_json(path.with_suffix(".json"), "preprocess.py --exec_mode patterns makes it")
    rows = _read_array(path)
    try:
        cases, count, (d, h, w) = tuple(values["cases"]), values["training"], values["grid"]
        fits = rows.ndim == 2 and rows.shape[1] == len(COLUMNS) and rows.dtype == np.int32 and count <= len(rows)
        if not fits or list(COLUMNS) != values["columns"] or (len(rows) and rows[:, 1].max() >= len(cases)):
            raise PatternError(f"{path} does not fit {path.stem}.json; make it anew")
        return Patterns(
            cases=cases,
            grid=(d, h, w),
            places=np.array(values["places"], np.int32),
            training=rows[:count],
            validation=rows[count:],
            settings=PatternSettings.from_json(values["settings"]),
        )
    except (KeyError, TypeError) as error:
        raise PatternError(f"{path.with_suffix('.json')} is no index of patterns ({error}); make it anew") from error


# ---- the published layout -----------------------------------------------------------------------------


def published_name(kind: str, number: int, fold: int) -> str:
    """``kind`` train_data, train_label, val_data or val_label."""
    return f"{kind}{number}_vwGen_ex_ref_fold{fold}.npy"


def write_published(
    folder: Path, patterns: Patterns, target: Path, fold: int, *, say: Callable[[str], None] = print
) -> list[Path]:
    """Cut every cube of an index into the published files; files that are there already are kept.

    Raises:
        PatternError: for scans of several channels, which that layout cannot hold.
    """
    target.mkdir(parents=True, exist_ok=True)
    crops = RESOLUTIONS if patterns.settings.multi_res else 1
    parts = [("train", k + 1, patterns.training[k::crops]) for k in range(crops)] + [("val", 1, patterns.validation)]
    written = []
    for part, number, rows in parts:
        data, label = (target / published_name(f"{part}_{what}", number, fold) for what in ("data", "label"))
        if not (data.exists() and label.exists()):
            _write_cubes(folder, patterns, rows, data)
            write_array(label, rows[:, 0].astype(np.int64))
            say(f"{data.name}: {len(rows)} cubes")
        else:
            say(f"{data.name} is there already and is kept")
        written += [data, label]
    return written


def _write_cubes(folder: Path, patterns: Patterns, rows: np.ndarray, path: Path) -> None:
    """(n, 1, rows, cols, deps) float32, scan by scan, through a memory map."""
    shape = (len(rows), 1, *patterns.settings.cube_size)
    with whole_file(path) as temporary:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape, version=(1, 0))
        for scan in np.unique(rows[:, 1]):
            case = patterns.cases[scan]
            info, image = read_info(folder, case), open_array(folder, case, "x")
            if len(image) != 1:
                raise PatternError(f"{case} has {len(image)} channels; the published layout holds scans of one")
            for i in np.flatnonzero(rows[:, 1] == scan):
                out[i] = cut(image, info, rows[i], patterns.cube_dhw).transpose(0, 3, 2, 1)
        out.flush()


def open_published(folder: Path, part: str, fold: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Published cubes and labels of a part, "train" or "val", of as many resolutions as there are.

    Returns:
        memory maps (n, 1, rows, cols, deps), and all their labels in a row, int64. Published files of
        cubes may lack the last row that their labels have: labels without a cube are dropped.

    Raises:
        PatternError: naming the file.
    """
    cubes, labels = [], []
    for number in range(1, RESOLUTIONS + 1):
        data, label = (Path(folder) / published_name(f"{part}_{what}", number, fold) for what in ("data", "label"))
        if number > 1 and not data.exists():
            break
        array, classes = _read_array(data, mmap=True), _read_array(label)
        classes = classes.argmax(1) if classes.ndim == 2 and classes.shape[1] > 1 else classes.ravel()
        array = array if array.ndim == 5 else array[:, None]
        if array.ndim != 5 or array.dtype.kind != "f" or array.shape[1] != 1 or len(classes) < len(array):
            raise PatternError(f"{data} has shape {array.shape} and {len(classes)} labels; cubes are (n, 1, W, H, D)")
        cubes.append(array)
        labels.append(classes[: len(array)].astype(np.int64))
    return cubes, np.concatenate(labels)


# ---- plain files --------------------------------------------------------------------------------------


def _read_array(path: Path, *, mmap: bool = False) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise PatternError(f"{path} does not exist") from error
    except (ValueError, EOFError, OSError) as error:
        raise PatternError(f"{path} cannot be read ({error}); make or download it again") from error


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PatternError(f"{path} does not exist: {remedy}") from error
    except (ValueError, OSError) as error:
        raise PatternError(f"{path} cannot be read ({error}); make it anew") from error
    if not isinstance(values, dict) or values.get("version") != FILES_VERSION:
        raise PatternError(f"{path} is not of version {FILES_VERSION}, which this program reads; make it anew")
    return values
