"""Trained networks at work: label maps of raw scans and of preprocessed cases, and their Dice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from cases.case import has_label, open_array, read_info
from cases.plan import Plan
from cases.regions import Regions, write_regions
from cases.volumes import read_label, turn_axes
from cli.assembly import build_fabric, build_module, checkpoint_of, flipped_axes, open_log
from data_preprocessing.crop import crop
from data_preprocessing.layouts.dataset import DatasetError
from data_preprocessing.layouts.img_list import read_img_list
from inference.metrics import DiceMeter
from inference.predict import Predicted, PredictSettings, predict_scans, predict_stored
from inference.published import PublishedNetwork, read_published
from inference.scans import input_scans
from inference.sliding_window import Predictor
from settings import MainSettings
from training.checkpoint import Checkpoint, CheckpointError, ForeignCheckpointError

Source = Checkpoint | PublishedNetwork
LabelMaps = tuple[Tensor, Tensor]  # predicted and true, of one shape


def source_of(settings: MainSettings) -> Source:
    """The segmentation network that --ckpt_path names: our own, or a published one of MedicalNet.

    Raises:
        CheckpointError, WeightsError: where it is neither.
    """
    try:
        checkpoint = checkpoint_of(settings)
    except ForeignCheckpointError:
        assert settings.ckpt_path is not None
        return read_published(settings.ckpt_path, settings.patch_size)
    if settings.patch_size is not None:
        raise CheckpointError(f"{checkpoint.path} has its own patch size: leave --patch_size out")
    return checkpoint


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A network on its device, and how its answers become labels."""

    plan: Plan
    predictor: Predictor
    wanted: PredictSettings

    @property
    def regions(self) -> Regions | None:
        return self.wanted.regions


def build_segmenter(settings: MainSettings, source: Source, fabric: Fabric) -> Segmenter:
    """Put the network on the device; a published one sees whole scans and answers at a quarter of their sides."""
    logits: Predictor
    if isinstance(source, PublishedNetwork):
        fabric.to_device(source.network).eval()
        logits = source.logits
        wanted = PredictSettings(
            windows=None, flip_axes=flipped_axes(settings, source.plan), keep_probabilities=settings.save_preds
        )
    else:
        module = build_module(source.plan, settings, source)
        network = fabric.to_device(module.network).eval()
        logits = partial(_first_head, network)
        wanted = PredictSettings(
            windows=module.windows,
            flip_axes=module.tta_axes,
            regions=module.regions,
            keep_probabilities=settings.save_preds,
        )

    def predictor(windows: Tensor) -> Tensor:
        with fabric.autocast():
            return logits(windows)

    return Segmenter(plan=source.plan, predictor=predictor, wanted=wanted)


def _first_head(network: torch.nn.Module, windows: Tensor) -> Tensor:
    logits: Tensor = network(windows)[0]
    return logits


def write_predictions(settings: MainSettings, source: Source, cases: list[str] | None) -> int:
    """Predict and write cases of the preprocessed folder, or the scans of --input where ``cases`` is None.

    Where labels lie beside the cases, Dice is printed. Returns 1 if a case failed, after all others.
    """
    folder = settings.results if cases is None else settings.results / predictions_name(settings)
    fabric, segmenter = _start(settings, source, folder)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    where = (segmenter.plan, segmenter.predictor, segmenter.wanted, folder)
    if settings.input is not None and cases is None:
        scans = input_scans(settings.input, channels=len(source.plan.channels))[mine]
        return _report(fabric, segmenter, predict_scans(scans, *where, device=fabric.device), None)[0]
    stored = predict_stored(settings.folder, (cases or [])[mine], *where[1:], device=fabric.device)
    return _report(fabric, segmenter, stored, lambda case: stored_pair(settings.folder, case))[0]


def evaluate_list(settings: MainSettings, source: Source) -> int:
    """Dice by class over the scans of --img_list, each on its own grid, printed and logged; label maps are written too.

    Returns 1 if a scan failed, after all others.

    Raises:
        DatasetError: for a list that cannot be read, or lines without a label.
    """
    assert settings.img_list is not None
    scans = read_img_list(settings.img_list)
    if without := [scan.case for scan in scans if scan.label is None]:
        raise DatasetError(
            f"{settings.img_list} names no label for {', '.join(without)}: --exec_mode predict needs none"
        )
    labels = {scan.case: scan.label for scan in scans}

    def pair(case: Predicted) -> LabelMaps:
        predicted, label = (torch.from_numpy(read_label(path)[0]) for path in (case.path, labels[case.case]) if path)
        return predicted, label

    folder = settings.results / predictions_name(settings)
    fabric, segmenter = _start(settings, source, folder)
    mine = scans[fabric.global_rank :: fabric.world_size]
    done = predict_scans(mine, segmenter.plan, segmenter.predictor, segmenter.wanted, folder, device=fabric.device)
    failed, record = _report(fabric, segmenter, done, pair)
    if fabric.is_global_zero and record:
        open_log(settings, append=True).log(step=(), data=record)
    return failed


def _start(settings: MainSettings, source: Source, folder: Path) -> tuple[Fabric, Segmenter]:
    """All ranks with their network; the folder of predictions says what the channels of its probabilities are."""
    fabric = build_fabric(settings)
    segmenter = build_segmenter(settings, source, fabric)
    if fabric.is_global_zero and isinstance(source, PublishedNetwork):
        size = "x".join(map(str, source.plan.patch_size))
        print(f"Scans are resized to {size} (D, H, W); --patch_size D H W where the network was trained otherwise")
    if fabric.is_global_zero and settings.save_preds:
        folder.mkdir(parents=True, exist_ok=True)
        write_regions(folder, segmenter.regions)
    return fabric, segmenter


def _report(
    fabric: Fabric,
    segmenter: Segmenter,
    done: Iterable[Predicted],
    pair: Callable[[Predicted], LabelMaps | None] | None,
) -> tuple[int, dict[str, float]]:
    """Print each case as it is done and, where ``pair`` finds its label, Dice; then the means over all ranks.

    Returns:
        1 if a case failed, and DLLogger's names and values of Dice in percent, none where no case had a label.
    """
    meter = DiceMeter(segmenter.plan.n_class, segmenter.regions)
    faults = torch.zeros((), device=fabric.device)
    for case in done:
        fault, dice = case.fault, ""
        if fault is None and pair is not None:
            try:
                maps = pair(case)
                dice = "" if maps is None else f"  Dice {100 * meter.update(*maps).nanmean():.2f}"
            except ValueError as error:
                fault = f"{case.case}: {error}"
        if fault is not None:
            faults += 1
            print(f"error: {fault}", file=sys.stderr, flush=True)
            continue
        print(f"{case.path}  {case.seconds:.1f} s{dice}", flush=True)
    totals, faults = fabric.all_reduce((meter.totals.to(fabric.device), faults), reduce_op="sum")
    failed = int(faults > 0)
    if not totals[1, 0]:
        return failed, {}
    totals = totals.cpu()
    if fabric.is_global_zero:
        names = segmenter.regions.names if segmenter.regions else segmenter.plan.labels[1:]
        print(DiceMeter.describe(totals, names))
    return failed, DiceMeter.record(totals)


def stored_pair(folder: Path, case: Predicted) -> LabelMaps | None:
    """A written label map and the preprocessed case's own label, both within its crop box; None without a label."""
    if not has_label(folder, case.case) or case.path is None:
        return None
    info = read_info(folder, case.case)
    predicted = read_label(case.path)[0]
    predicted = crop(turn_axes(predicted) if info.geometry.depth_first else predicted, info.crop_box)
    return torch.from_numpy(predicted.copy()), torch.from_numpy(open_array(folder, case.case, "orig_y").copy())


def predictions_name(settings: MainSettings) -> str:
    """The folder's name that users of this command line expect."""
    stem = settings.ckpt_path.stem if settings.ckpt_path else ""
    return f"predictions_{stem}_task={settings.task}_fold={settings.fold}" + ("_tta" if settings.tta else "")
