"""Whole cases through a network: many of them, each on its own scan's grid, each written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cases.case import CaseInfo, open_array, read_info
from cases.files import write_array
from cases.label_values import from_classes
from cases.plan import Plan
from cases.regions import Regions
from cases.volumes import write_volume
from data_preprocessing.layouts.dataset import Scan, read_scan
from data_preprocessing.preprocessor import prepare
from data_preprocessing.recipes import recipe_of
from inference.restore import Prediction, restore
from inference.sliding_window import Predictor, Slab, SlidingWindow
from inference.tta import flip_average, probabilities
from runtime.ahead import read_ahead

Load = Callable[[], tuple[np.ndarray | Tensor, CaseInfo]]


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How a network's answers become labels.

    Attributes:
        windows: how a volume is cut; None: not at all. The predictor, which may answer at a lower
            resolution then, sees all of it.
        flip_axes: spatial axes of the patch to average over, those that training mirrored.
        regions: the network's outputs are these regions instead of classes.
        keep_probabilities: keep them beside the labels.
        label_values: of the label maps that are written, by class; (): 0, 1, 2, ...
        post: what is done to a label map of classes (D, H, W) before it is written.
    """

    windows: SlidingWindow | None
    flip_axes: tuple[int, ...] = ()
    regions: Regions | None = None
    keep_probabilities: bool = False
    label_values: tuple[int, ...] = ()
    post: Callable[[np.ndarray], np.ndarray] | None = None


def predict_case(
    image_cdhw: np.ndarray | Tensor,
    info: CaseInfo,
    predictor: Predictor,
    settings: PredictSettings,
    *,
    device: torch.device | str = "cpu",
) -> Prediction:
    """Predict one case.

    Args:
        image_cdhw: the stored image; a memory map will do.
        info: of the case.
        predictor: windows (N, C, *patch) to logits (N, classes or regions, *patch); without
            windows, of volumes that are stored without padding.
        settings: windows, flips and what to keep.
        device: where windows and scores live.
    """
    exclusive = settings.regions is None
    averaged = flip_average(probabilities(predictor, exclusive=exclusive), settings.flip_axes)
    if settings.windows is None:
        with torch.no_grad():
            scores = averaged(torch.as_tensor(np.array(image_cdhw)[None], device=device))[0]
        d, h, w = scores.shape[1:]
        slabs: Iterable[Slab] = [Slab(0, 0, d, scores)]
        info = replace(info, shape_resampled=(d, h, w), shape_stored=(d, h, w), pad_before=(0, 0, 0))
    else:
        slabs = settings.windows.stream(image_cdhw, averaged, device=device)
    done = restore(slabs, info, regions=settings.regions, keep_probabilities=settings.keep_probabilities)
    return done if settings.post is None else replace(done, labels_dhw=settings.post(done.labels_dhw))


def write_prediction(folder: Path, info: CaseInfo, prediction: Prediction, values: Sequence[int] = ()) -> Path:
    """Write ``<case>.nii.gz`` on the scan's grid, after ``<case>.npy`` where there are probabilities.

    Args:
        values: of the file, by class; (): 0, 1, 2, ...

    Returns:
        the label map's path. A case without a label map is not done.
    """
    if prediction.probabilities_cdhw is not None:
        write_array(folder / f"{info.case}.npy", prediction.probabilities_cdhw)
    path = folder / f"{info.case}.nii.gz"
    labels = from_classes(prediction.labels_dhw, values) if values else prediction.labels_dhw
    write_volume(path, labels, info.geometry)
    return path


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """How one case ended: its label map's path, or the fault in words."""

    case: str
    path: Path | None = None
    fault: str | None = None
    seconds: float = 0.0


def predict_scans(
    scans: Sequence[Scan],
    plan: Plan,
    predictor: Predictor,
    settings: PredictSettings,
    results: Path,
    *,
    device: torch.device | str = "cpu",
    own: Sequence[str] = (),
) -> Iterator[Predicted]:
    """Prepare scans as the plan says, predict them and write label maps; a bad scan costs no other one.

    ``own`` are the command line's own recipes and normalisations, see :class:`data_preprocessing.recipes.OwnSettings`.
    """
    recipe_of(plan, own)  # a plan that cannot be followed is one message, not one for every scan
    loads = [(scan.case, _raw(scan, plan, own)) for scan in scans]
    return _predict_all(loads, predictor, settings, results, device)


def predict_stored(
    folder: Path,
    cases: Sequence[str],
    predictor: Predictor,
    settings: PredictSettings,
    results: Path,
    *,
    device: torch.device | str = "cpu",
) -> Iterator[Predicted]:
    """Predict preprocessed cases and write label maps; a bad case costs no other one."""
    loads = [(case, _stored(Path(folder), case)) for case in cases]
    return _predict_all(loads, predictor, settings, results, device)


def _raw(scan: Scan, plan: Plan, own: Sequence[str]) -> Load:
    def load() -> tuple[np.ndarray, CaseInfo]:
        unlabelled = Scan(case=scan.case, images=scan.images)
        image, geometry, _ = read_scan(unlabelled, depth_first=recipe_of(plan, own).depth_first)
        names = [path.name for path in scan.images]
        prepared = prepare(image, geometry, plan, case=scan.case, pad=False, images=names, own=own)
        return prepared.image_cdhw, prepared.info

    return load


def _stored(folder: Path, case: str) -> Load:
    return lambda: (open_array(folder, case, "x"), read_info(folder, case))


def _predict_all(
    loads: Sequence[tuple[str, Load]],
    predictor: Predictor,
    settings: PredictSettings,
    results: Path,
    device: torch.device | str,
) -> Iterator[Predicted]:
    results.mkdir(parents=True, exist_ok=True)
    for (case, _), loaded in read_ahead(lambda entry: entry[1](), loads):
        started = time.perf_counter()
        try:
            image, info = loaded.result()
            prediction = predict_case(image, info, predictor, settings, device=device)
            path = write_prediction(results, info, prediction, settings.label_values)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            remedy = "take a smaller --val_batch_size, or --gpus 0"
            yield Predicted(case=case, fault=f"{case}: not enough memory for a scan of this size; {remedy}")
        except (ValueError, OSError) as error:
            message = str(error)
            yield Predicted(case=case, fault=message if case in message else f"{case}: {message}")
        else:
            yield Predicted(case=case, path=path, seconds=time.perf_counter() - started)
