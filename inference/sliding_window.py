"""A whole volume through a network that sees windows, blended slab by slab.

Overlapping windows are averaged with a weight that falls towards their border (nnU-Net,
doi:10.1038/s41592-020-01008-z). Windows are visited in order along one axis. A plane that no later
window touches is finished: it is handed out and its memory used again, so that the scores take one
slab as deep as a window instead of classes times volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cases.plan import Plan
from cases.settings import Settings, above, below_one, setting
from inference.feeding import feed, settled
from inference.window_grid import Corner, WindowGrid
from runtime.transfer import with_index

Blend = Literal["gaussian", "constant"]
Predictor = Callable[[Tensor], Tensor]
SIGMA = 0.125  # of the Gaussian weight, as a part of the window's side
LEAST_WEIGHT = 1e-3  # of a voxel in the window's corner, where its centre has 1


class WindowError(ValueError):
    """Windows that cannot cover a volume."""


@dataclass(frozen=True, kw_only=True)
class WindowSettings(Settings):
    """How whole volumes are predicted"""

    error = WindowError

    val_batch_size: int = setting(4, "windows predicted at once", check=above(0), kept=False)
    overlap: float = setting(0.5, "of neighbouring windows", check=below_one, kept=False)
    blend: Blend = setting("gaussian", "weights of overlapping windows", kept=False)


@dataclass(frozen=True)
class Slab:
    """Finished planes of a volume.

    Attributes:
        axis: of D, H, W (0, 1, 2) along which slabs follow each other.
        start, stop: planes of the volume along ``axis``.
        scores_cdhw: float32, the volume's sides but stop - start along ``axis``. It may be a view
            of memory that the next slab reuses: copy what is to be kept.
    """

    axis: int
    start: int
    stop: int
    scores_cdhw: Tensor

    @property
    def place(self) -> tuple[slice, slice, slice]:
        """Where it lies in a (D, H, W) array of the volume."""
        index = [slice(None)] * 3
        index[self.axis] = slice(self.start, self.stop)
        return index[0], index[1], index[2]


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """How a volume is cut into windows.

    Attributes:
        patch_size: (D, H, W), or (H, W) for a 2D network, which then sees every slice of D.
        overlap: of neighbouring windows, in [0, 1).
        blend: "gaussian", sigma 1/8 of the side, or "constant".
        batch_size: windows that pass the network together.
    """

    patch_size: tuple[int, ...]
    overlap: float = 0.5
    blend: Blend = "gaussian"
    batch_size: int = 4

    @classmethod
    def of(cls, plan: Plan, settings: WindowSettings) -> SlidingWindow:
        """Windows of the plan's patch size."""
        return cls(
            patch_size=plan.patch_size,
            overlap=settings.overlap,
            blend=settings.blend,
            batch_size=settings.val_batch_size,
        )

    def __post_init__(self) -> None:
        faults = []
        if len(self.patch_size) not in (2, 3) or min(self.patch_size, default=0) < 1:
            faults.append(f"patch size {self.patch_size} is not two or three positive numbers")
        if not 0 <= self.overlap < 1:
            faults.append(f"overlap {self.overlap} is not in [0, 1)")
        if self.blend not in ("gaussian", "constant"):
            faults.append(f"blend {self.blend!r} is not gaussian or constant")
        if self.batch_size < 1:
            faults.append(f"batch size {self.batch_size} is below 1")
        if faults:
            raise WindowError("sliding window: " + "; ".join(faults))

    @property
    def window_dhw(self) -> tuple[int, int, int]:
        """A window's sides; D is 1 for a 2D network."""
        d, h, w = (1, *self.patch_size)[-3:]
        return d, h, w

    # On a generator: in force while it runs, not while its consumer does. In inference mode autocast would cast the
    # weights anew for each batch.
    @torch.inference_mode(False)
    @torch.no_grad()
    def stream(
        self, image_cdhw: np.ndarray | Tensor, predictor: Predictor, *, device: torch.device | str = "cpu"
    ) -> Iterator[Slab]:
        """Blended scores of a volume, in slabs from its first plane to its last.

        Sides shorter than the window are padded with zeros on both sides, and cut back.

        Args:
            image_cdhw: volume or memory map. A GPU takes all of it at once where it is small beside the free memory;
                otherwise only windows are copied.
            predictor: (N, C, *patch) float32 on ``device`` to scores of the same sides. The windows are its own until
                it is called again.
            device: of the windows and the scores.

        Raises:
            WindowError: if the image has not four axes, or the predictor answers with other sides.
        """
        if image_cdhw.ndim != 4:
            raise WindowError(f"image of shape {tuple(image_cdhw.shape)} is not (C, D, H, W)")
        device = with_index(device)
        gpu = device.type == "cuda"
        grid = WindowGrid.over(image_cdhw.shape[1:], self.window_dhw, self.overlap)
        batches = grid.batches(self.batch_size, full=gpu)  # cuDNN tries its algorithms anew for each batch size
        blending = _Blending(grid, self, device)
        predict = _flat(predictor) if len(self.patch_size) == 2 else predictor
        corners = [list(chain(*batch)) for batch in batches]
        fed = feed(settled(image_cdhw, device), grid, corners, device, full=gpu)
        for batch, windows in zip(batches, fed, strict=True):
            if (slab := blending.finish_before(batch[0])) is not None:
                yield slab  # now, as the network needs memory too
            scores = predict(windows)
            for part in batch:
                if (slab := blending.finish_before(part)) is not None:
                    yield slab
                blending.add(scores[: len(part)], part)
                scores = scores[len(part) :]
            del scores
        if (slab := blending.finish()) is not None:
            yield slab

    def scores(
        self, image_cdhw: np.ndarray | Tensor, predictor: Predictor, *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """All blended scores in one array (C, D, H, W) on ``device``, for volumes small enough."""
        whole: Tensor | None = None
        for slab in self.stream(image_cdhw, predictor, device=device):
            if whole is None:
                whole = slab.scores_cdhw.new_empty((len(slab.scores_cdhw), *image_cdhw.shape[1:]))
            whole[(slice(None), *slab.place)] = slab.scores_cdhw
        assert whole is not None  # a volume has at least one window
        return whole


def importance(window: Sequence[int], blend: str, device: torch.device | None = None) -> Tensor:
    """Weight of each voxel of a window: float32, at least ``LEAST_WEIGHT``, 1 in the middle."""
    weight = torch.ones((), device=device)
    if blend == "gaussian":
        for side in window:
            place = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
            weight = weight[..., None] * torch.exp(-(place**2) / (2 * (SIGMA * side) ** 2))
        return weight.clamp_(min=LEAST_WEIGHT)
    return weight.expand(*window).contiguous()


class _Blending:
    """One slab's weighted sums, moving along the volume."""

    def __init__(self, grid: WindowGrid, windows: SlidingWindow, device: torch.device) -> None:
        self.grid = grid
        self.weight = importance(grid.window, windows.blend, device)
        sides = list(grid.padded)
        sides[grid.axis] = grid.slab_depth(windows.batch_size)
        self.weights = torch.zeros(1, *sides, device=device)
        self.sums: Tensor | None = None  # the number of classes shows with the first prediction
        self.start = 0
        self.pending = 0  # planes handed out, whose memory is free once the next ones are asked for

    def add(self, scores_ncdhw: Tensor, corners: Sequence[Corner]) -> None:
        """Add a batch of windows; the weight is applied here and nowhere else."""
        if tuple(scores_ncdhw.shape[2:]) != self.grid.window:
            raise WindowError(
                f"windows of {self.grid.window} came back from the network as {tuple(scores_ncdhw.shape[2:])}"
            )
        self._move()
        if self.sums is None:
            self.sums = self.weights.new_zeros(scores_ncdhw.shape[1], *self.weights.shape[1:])
        for scores, corner in zip(scores_ncdhw, corners, strict=True):
            place: list[slice] = [slice(None)]
            for axis, (start, side) in enumerate(zip(corner, self.grid.window, strict=True)):
                low = start - self.start if axis == self.grid.axis else start
                place.append(slice(low, low + side))
            self.sums[tuple(place)].addcmul_(scores.float(), self.weight)
            self.weights[tuple(place)].add_(self.weight)

    def finish_before(self, corners: Sequence[Corner]) -> Slab | None:
        """Hand out the planes before the next windows, averaged, without the padding; None where none are left."""
        return self._finish(corners[0][self.grid.axis])

    def finish(self) -> Slab | None:
        """Hand out the planes that are left."""
        return self._finish(self.grid.padded[self.grid.axis])

    def _finish(self, plane: int) -> Slab | None:
        done = plane - self.start
        if done == self.pending or self.sums is None:  # none, or handed out already
            return None
        self.pending = done
        axis, grid = self.grid.axis, self.grid
        sums = self.sums.narrow(axis + 1, 0, done)
        sums.div_(self.weights.narrow(axis + 1, 0, done))
        before = grid.pad_before[axis]
        start, stop = max(0, self.start - before), min(grid.shape[axis], plane - before)
        if start >= stop:
            return None
        for other in range(3):
            low = start + before - self.start if other == axis else grid.pad_before[other]
            sums = sums.narrow(other + 1, low, stop - start if other == axis else grid.shape[other])
        return Slab(axis, start, stop, sums)

    def _move(self) -> None:
        """Bring the unfinished planes to the front of the slab and clear the rest."""
        done, self.pending = self.pending, 0
        if done == 0:
            return
        assert self.sums is not None
        for buffer in (self.sums, self.weights):
            along = buffer.movedim(self.grid.axis + 1, 0)
            keep = len(along) - done
            for at in range(0, keep, done):  # pieces that do not overlap need no second buffer
                piece = min(done, keep - at)
                along[at : at + piece] = along[at + done : at + done + piece]
            along[keep:] = 0
        self.start += done


def _flat(predictor: Predictor) -> Predictor:
    """A 2D network as one for windows a single slice deep."""
    return lambda windows: predictor(windows[:, :, 0])[:, :, None]
