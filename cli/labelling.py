"""Label maps of raw scans and of preprocessed cases, written one by one, and their Dice where labels are known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from cases.case import has_label, open_array, read_info
from cases.folder import FolderSettings
from cases.label_values import to_classes
from cases.plan import Plan
from cases.regions import write_regions
from cases.settings import Given
from cases.splits import FoldSettings
from cases.volumes import read_label, turn_axes
from cli.trained import Segmenter, Source, TrainedSettings, build_segmenter
from data_preprocessing.crop import crop
from data_preprocessing.layouts.dataset import Scan
from data_preprocessing.recipes import OwnSettings
from inference.medicalnet import PublishedNetwork
from inference.metrics import DiceMeter
from inference.predict import Predicted, predict_scans, predict_stored
from inference.tta import TTASettings
from runtime.devices import DeviceSettings, build_fabric

T = TypeVar("T")
Outcome = tuple[int, dict[str, float]]  # 1 if a case failed; DLLogger's names and values of Dice in percent
LabelMaps = tuple[Tensor, Tensor]  # predicted and true, of one shape


class Labelling:
    """All ranks with a network, and the folder that its label maps go to.

    Args:
        given: settings of the command.
        source: the network.
        folder: of the label maps.
        keep_probabilities: write them too; the folder then says what their channels are.
    """

    def __init__(self, given: Given, source: Source, folder: Path, *, keep_probabilities: bool) -> None:
        self.given, self.folder = given, folder
        self.fabric: Fabric = build_fabric(given[DeviceSettings])
        self.segmenter: Segmenter = build_segmenter(given, source, self.fabric, keep_probabilities=keep_probabilities)
        if not self.fabric.is_global_zero:
            return
        if self.device.type == "cuda":
            print(self.segmenter.hardware, flush=True)
        if isinstance(source, PublishedNetwork):
            size = "x".join(map(str, source.plan.patch_size))
            print(f"Scans are resized to {size} (D, H, W); --patch_size D H W where the network was trained otherwise")
        if keep_probabilities:
            folder.mkdir(parents=True, exist_ok=True)
            write_regions(folder, self.segmenter.regions)

    def write_scans(self, scans: list[Scan], pair: Callable[[Predicted], LabelMaps | None] | None = None) -> Outcome:
        """Predict and write raw scans. ``pair`` finds a case's predicted and true label maps."""
        segmenter = self.segmenter
        done = predict_scans(
            self._mine(scans),
            segmenter.plan,
            segmenter.predictor,
            segmenter.wanted,
            self.folder,
            device=self.device,
            own=self.given[OwnSettings].own,
        )
        return self._report(done, pair)

    def write_stored(self, data: Path, cases: list[str]) -> Outcome:
        """Predict and write cases of a preprocessed folder; where labels lie beside them, Dice is printed."""
        segmenter = self.segmenter
        done = predict_stored(
            data, self._mine(cases), segmenter.predictor, segmenter.wanted, self.folder, device=self.device
        )
        return self._report(done, lambda case: stored_pair(data, case, segmenter.plan))

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def _mine(self, items: list[T]) -> list[T]:
        return items[self.fabric.global_rank :: self.fabric.world_size]

    def _report(self, done: Iterable[Predicted], pair: Callable[[Predicted], LabelMaps | None] | None) -> Outcome:
        """Print each case as it is done and, where ``pair`` finds its label, Dice; then the means over all ranks.

        Returns:
            1 if a case failed, and DLLogger's names and values of Dice in percent, none where no case had a label.
        """
        fabric, segmenter = self.fabric, self.segmenter
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


def stored_pair(folder: Path, case: Predicted, plan: Plan) -> LabelMaps | None:
    """A written label map and the preprocessed case's own label, both within its crop box; None without a label."""
    if not has_label(folder, case.case) or case.path is None:
        return None
    info = read_info(folder, case.case)
    predicted = to_classes(read_label(case.path)[0], plan.values)
    predicted = crop(turn_axes(predicted) if info.geometry.depth_first else predicted, info.crop_box)
    return torch.from_numpy(predicted.copy()), torch.from_numpy(open_array(folder, case.case, "orig_y").copy())


def predictions_name(given: Given) -> str:
    """The folder's name that users of this command line expect."""
    stem, task, fold = given[TrainedSettings].ckpt_path.stem, given[FolderSettings].task, given[FoldSettings].fold
    return f"predictions_{stem}_task={task}_fold={fold}" + ("_tta" if given[TTASettings].tta else "")
