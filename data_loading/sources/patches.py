"""Reads patches out of preprocessed cases, through memory maps, in DALI's workers.

A patch costs what lies under it, not its volume. On the CPU the worker finishes the patch with compiled
kernels, warping straight from the memory map; for a GPU it reads the box that the warp needs, and the graph
does the rest (``augmentation.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cases.case import CaseError, open_array, read_info
from data_loading.augmentation import kernels
from data_loading.augmentation.intensity_cpu import augment_intensity
from data_loading.augmentation.pipeline import pack
from data_loading.sources.sampling import Patch, PatchSampler, dali_matrix, neighbouring_slice, warp_box

OPEN_CASES = 64  # memory maps that one worker keeps: below the usual limit of 1024 files a process
NOTHING = np.zeros((0, 4), np.int32)


class SampleInfo(Protocol):
    """What DALI tells a source; ``iteration`` counts batches from the pipeline's start."""

    iteration: int
    idx_in_batch: int


@dataclass(frozen=True)
class OpenCase:
    """A case's arrays; the image and the label are memory maps."""

    image_cdhw: np.ndarray
    label: np.ndarray | None
    foreground: np.ndarray

    @property
    def shape_dhw(self) -> tuple[int, ...]:
        return self.image_cdhw.shape[1:]


class CaseReader:
    """Opens cases, checks them against their json, and keeps the last few open. Pickles without them."""

    def __init__(self, folder: Path, channels: int, *, labelled: bool = True) -> None:
        self.folder = Path(folder)
        self.channels = channels
        self.labelled = labelled
        self._open: OrderedDict[str, OpenCase] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def open(self, case: str) -> OpenCase:
        """Raises CaseError naming the file where arrays and json disagree."""
        if case in self._open:
            self._open.move_to_end(case)
            return self._open[case]
        if len(self._open) >= OPEN_CASES:
            self._open.popitem(last=False)
        self._open[case] = opened = self._checked(case)
        return opened

    def _checked(self, case: str) -> OpenCase:
        shape = read_info(self.folder, case).shape_stored
        image = open_array(self.folder, case, "x")
        self._expect(case, "x", image, (self.channels, *shape), ("float32", "float16"))
        if not self.labelled:
            return OpenCase(image, None, NOTHING)
        label = open_array(self.folder, case, "y")
        self._expect(case, "y", label, (1, *shape), ("uint8",))
        foreground = np.array(open_array(self.folder, case, "fg"))
        if foreground.ndim != 2 or foreground.shape[1] != 4:
            raise CaseError(f"{self.folder / case}_fg.npy has shape {foreground.shape}, not (n, 4); {REMEDY}")
        return OpenCase(image, label, foreground)

    def _expect(self, case: str, suffix: str, array: np.ndarray, shape: Sequence[int], dtypes: Sequence[str]) -> None:
        if array.shape != tuple(shape) or array.dtype.name not in dtypes:
            raise CaseError(
                f"{self.folder / case}_{suffix}.npy holds {array.dtype.name} {array.shape}, but {case}.json and the "
                f"plan say {' or '.join(dtypes)} {tuple(shape)}; {REMEDY}"
            )


REMEDY = "delete the case's json and run preprocess.py again"


@dataclass(frozen=True, kw_only=True)
class PatchSource:
    """The callable of DALI's external source: SampleInfo -> arrays of one patch.

    Compiled, it returns (image, [label]), the finished patch: image (C, *axes) float32, label (1, *axes) uint8.
    Otherwise (image, [label,] parameters, matrix, seed) for the graph to finish: where it must warp, image and
    label are the box under the patch; parameters float32: whether to warp, the deviation of the noise, then
    augmentation.pack's vector.

    Attributes:
        compiled: augment here, with the CPU kernels, rather than in the graph.
        first_step: global step (epoch * steps + step) of the pipeline's first batch.
        run: neighbouring slices drawn together from one volume (2D plans); 1 draws each patch alone.
        axes: 3, or 2 where the depth axis is dropped.
    """

    reader: CaseReader
    cases: tuple[str, ...]
    sampler: PatchSampler
    compiled: bool
    axes: int = 3
    run: int = 1
    first_step: int = 0

    def at(self, global_step: int) -> PatchSource:
        """The same source for a pipeline that begins at ``global_step``."""
        return replace(self, first_step=global_step)

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        case, patch = self.draw(self.first_step + info.iteration, info.idx_in_batch)
        return self.arrays(case, patch)

    def draw(self, global_step: int, index: int) -> tuple[OpenCase, Patch]:
        """The case and the patch of a place in a batch."""
        group, slice_ = divmod(index, self.run)
        case = self.reader.open(self.cases[self.sampler.case_index(global_step, group)])
        rng = self.sampler.patch_generator(global_step, group)
        patch = self.sampler.draw(rng, case.shape_dhw, case.foreground)
        if self.run > 1:
            patch = neighbouring_slice(patch, slice_, self.run, case.shape_dhw[0])
        return case, patch

    def arrays(self, case: OpenCase, patch: Patch) -> tuple[np.ndarray, ...]:
        """Read a patch; see the class."""
        sides, offset = self.sampler.patch_dhw, patch.offset
        volumes = [case.image_cdhw] if case.label is None else [case.image_cdhw, case.label]
        drop = (slice(None), 0) if self.axes == 2 else ...
        if self.compiled or not patch.warped:
            read = [read_patch(volume, patch, sides) for volume in volumes]
        else:
            start, end = warp_box(patch, sides, case.shape_dhw)
            offset = offset - start
            read = [copy_box(volume, start, end - start) for volume in volumes]
        images = [array[drop] for array in read]
        if self.compiled:
            if patch.noise_std > 0:
                kernels.add_noise(read[0], patch.noise_seed, patch.noise_std)
            augment_intensity(read[0], patch.intensity, self.sampler.in_plane)
            return tuple(images)
        return (
            *images,
            np.concatenate([np.array([patch.warped, patch.noise_std], np.float32), pack(patch.intensity)]),
            dali_matrix(patch.matrix, offset, self.axes),
            np.array([patch.noise_seed], np.uint32),
        )


def read_patch(volume_cdhw: np.ndarray, patch: Patch, sides: Sequence[int]) -> np.ndarray:
    """The finished patch: (C, *sides), float32 for an image, the label's own type for a label."""
    if not patch.warped:
        return _mirrored_copy(volume_cdhw, patch, sides)
    shape, offset = np.asarray(sides), patch.offset
    if volume_cdhw.dtype.kind != "f":
        return kernels.warp_label(volume_cdhw, patch.matrix, offset, shape)
    if volume_cdhw.dtype == np.float16:  # no arithmetic in half precision on a CPU: widen what is needed
        start, end = warp_box(patch, sides, volume_cdhw.shape[1:])
        volume_cdhw, offset = copy_box(volume_cdhw, start, end - start), offset - start
    return kernels.warp_image(volume_cdhw, patch.matrix, offset, shape)


def _mirrored_copy(volume_cdhw: np.ndarray, patch: Patch, sides: Sequence[int]) -> np.ndarray:
    sign = np.sign(np.diag(patch.matrix)).astype(int)
    first = np.rint(patch.offset).astype(int)
    start = np.where(sign < 0, first - (np.asarray(sides) - 1), first)
    box = copy_box(volume_cdhw, start, sides)
    return np.ascontiguousarray(box[(slice(None), *(slice(None, None, int(s)) for s in sign))])


def copy_box(
    volume_cdhw: np.ndarray, start: Sequence[int] | np.ndarray, size: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Copy a box, zeros where it leaves the volume; images become float32."""
    dtype = np.float32 if volume_cdhw.dtype.kind == "f" else volume_cdhw.dtype
    inside = [
        (max(0, int(s)), min(n, int(s) + int(k))) for s, k, n in zip(start, size, volume_cdhw.shape[1:], strict=True)
    ]
    source = volume_cdhw[(slice(None), *(slice(a, b) for a, b in inside))]
    if source.shape[1:] == tuple(size):
        return np.array(source, dtype=dtype, order="C", subok=False)
    out = np.zeros((volume_cdhw.shape[0], *(int(k) for k in size)), dtype)
    place = [slice(a - int(s), b - int(s)) for (a, b), s in zip(inside, start, strict=True)]
    out[(slice(None), *place)] = source
    return out
