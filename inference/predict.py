"""Whole cases through a network: many of them, each on its own scan's grid, each written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

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
from inference.feeding import Volume, settled
from inference.restore import Prediction, launch_restore
from inference.sliding_window import Predictor, Slab, SlidingWindow
from inference.tta import flip_average, probabilities
from runtime.ahead import read_ahead
from runtime.transfer import with_index

T = TypeVar("T")
Read = tuple[Volume, CaseInfo]
Load = Callable[[], Read]
BAD_SCAN = (MemoryError, torch.cuda.OutOfMemoryError, ValueError, OSError)  # what costs one scan and no other
Launched = tuple[Callable[[], Prediction], CaseInfo, float]  # what waits for it, and seconds until it was launched


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
        autocast: entered once a case, since weights are cast to half precision once in it.
    """

    windows: SlidingWindow | None
    flip_axes: tuple[int, ...] = ()
    regions: Regions | None = None
    keep_probabilities: bool = False
    label_values: tuple[int, ...] = ()
    post: Callable[[np.ndarray], np.ndarray] | None = None
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext


def predict_case(
    image_cdhw: Volume,
    info: CaseInfo,
    predictor: Predictor,
    settings: PredictSettings,
    *,
    device: torch.device | str = "cpu",
) -> Prediction:
    """Predict one case; arguments of :func:`launch_case`."""
    return launch_case(image_cdhw, info, predictor, settings, device=device)()


def launch_case(
    image_cdhw: Volume,
    info: CaseInfo,
    predictor: Predictor,
    settings: PredictSettings,
    *,
    device: torch.device | str = "cpu",
) -> Callable[[], Prediction]:
    """The same, of which a GPU may still compute the rest: what is returned waits for it.

    Args:
        image_cdhw: the stored image; a memory map will do.
        info: of the case.
        predictor: windows (N, C, *patch) to logits (N, classes or regions, *patch); without
            windows, of volumes that are stored without padding.
        settings: windows, flips and what to keep.
        device: where windows and scores live.
    """
    exclusive, device = settings.regions is None, with_index(device)
    averaged = flip_average(probabilities(predictor, exclusive=exclusive), settings.flip_axes)
    with settings.autocast():
        if settings.windows is None:
            slab = _whole(image_cdhw, averaged, device)
            d, h, w = slab.scores_cdhw.shape[1:]
            slabs: Iterable[Slab] = [slab]
            info = replace(info, shape_resampled=(d, h, w), shape_stored=(d, h, w), pad_before=(0, 0, 0))
        else:
            slabs = settings.windows.stream(image_cdhw, averaged, device=device)
        finish = launch_restore(slabs, info, regions=settings.regions, keep_probabilities=settings.keep_probabilities)
    post = settings.post
    return finish if post is None else lambda: _with_post(finish(), post)


def _with_post(prediction: Prediction, post: Callable[[np.ndarray], np.ndarray]) -> Prediction:
    return replace(prediction, labels_dhw=post(prediction.labels_dhw))


@torch.no_grad()
def _whole(image_cdhw: Volume, predictor: Predictor, device: torch.device) -> Slab:
    """A volume through the network at once."""
    image = settled(image_cdhw, device)
    whole = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    scores = predictor(whole[None].to(device).float())[0]
    return Slab(0, 0, scores.shape[1], scores)


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
    return _predict_all(raw_loads(scans, plan, own), predictor, settings, results, device)


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
    return _predict_all(stored_loads(Path(folder), cases), predictor, settings, results, device)


def raw_loads(scans: Sequence[Scan], plan: Plan, own: Sequence[str] = ()) -> list[tuple[str, Load]]:
    """Scans by name, and what reads and prepares each; ``own`` as in :func:`predict_scans`."""
    recipe_of(plan, own)  # a plan that cannot be followed is one message, not one for every scan
    return [(scan.case, _raw(scan, plan, own)) for scan in scans]


def stored_loads(folder: Path, cases: Sequence[str]) -> list[tuple[str, Load]]:
    """Preprocessed cases by name, and what reads each."""
    return [(case, _stored(folder, case)) for case in cases]


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
    """One case after the other, the next being read meanwhile.

    For a GPU a thread of its own launches the network of the next case too, while this one is waited for and written,
    and while the consumer looks at it. Two images and two predictions are in memory at most.
    """
    results.mkdir(parents=True, exist_ok=True)
    device = with_index(device)

    def read(entry: tuple[str, Load]) -> Read:
        image, info = entry[1]()
        return settled(image, device), info

    def launch(entry: tuple[str, list[Future[Read]]]) -> Launched | Predicted:
        case, reading = entry

        def start() -> Launched:
            image, info = reading.pop().result()  # nobody else holds the image
            started = time.perf_counter()
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                finish = launch_case(image, info, predictor, settings, device=device)
            return finish, info, time.perf_counter() - started

        return _guarded(case, start)

    entries = ((case, [reading]) for (case, _), reading in read_ahead(read, loads))
    if device.type != "cuda":  # the cores have no time to spare, and a prediction ahead would take memory
        for entry in entries:
            yield _finished(entry[0], launch(entry), results, settings.label_values)
        return
    for (case, _), launching in read_ahead(launch, entries):
        outcome = _finished(case, launching.result(), results, settings.label_values)
        del launching  # it would keep the prediction beside the next two
        yield outcome


def _finished(case: str, launched: Launched | Predicted, results: Path, values: Sequence[int]) -> Predicted:
    """Wait for a case and write it with these label values, unless it has failed already."""
    if isinstance(launched, Predicted):
        return launched
    finish, info, seconds = launched

    def write() -> Predicted:
        started = time.perf_counter()
        path = write_prediction(results, info, finish(), values)
        return Predicted(case=case, path=path, seconds=seconds + time.perf_counter() - started)

    return _guarded(case, write)


def _guarded(case: str, work: Callable[[], T]) -> T | Predicted:
    """What the work returns, or its fault in words: an exception that is kept would keep the memory of its frames."""
    try:
        return work()
    except BAD_SCAN as error:
        return Predicted(case=case, fault=fault_of(case, error))


def fault_of(case: str, error: BaseException) -> str:
    """One of ``BAD_SCAN`` in words that name the case."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        remedy = "take a smaller --val_batch_size, or --gpus 0"
        return f"{case}: not enough memory for a scan of this size; {remedy}"
    message = str(error)
    return message if case in message else f"{case}: {message}"
