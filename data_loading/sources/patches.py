"""Patches of preprocessed cases, made in DALI's workers.

On the CPU the worker finishes the patch with compiled kernels, warping straight from the memory map; for a GPU it
reads the box that the warp needs, and the graph does the rest (``dali.patch_graph``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_loading.augmentation import warp
from data_loading.sources.reader import CaseReader, OpenCase, copy_box
from data_loading.sources.sampling import Patch, PatchSampler, warp_box
from data_loading.sources.source import SampleInfo


@dataclass(frozen=True, kw_only=True)
class PatchSource:
    """The callable of DALI's external source: SampleInfo -> arrays of one patch.

    Compiled, it returns (image, [label]), the finished patch: image (C, *axes) float32, label (1, *axes) uint8.
    Otherwise (image, [label,] parameters, matrix) for the graph to finish: where it must warp, image and label are
    the box under the patch, the image as float16 with ``half``; parameters float32: whether to warp, then the
    intensity effects' packed vector.

    Attributes:
        compiled: augment here, with the CPU kernels, rather than in the graph.
        first_step: global step (epoch * steps + step) of the pipeline's first batch.
        box_voxels: the most that is handed over of a patch.
        half: hand the image to the graph as float16, as every case is stored.
        run: neighbouring slices drawn together from one volume (2D plans); 1 draws each patch alone.
    """

    reader: CaseReader
    cases: tuple[str, ...]
    sampler: PatchSampler
    compiled: bool
    box_voxels: int
    half: bool = False
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
            patch = self.sampler.neighbour(patch, slice_, self.run, case.shape_dhw[0])
        return case, patch

    def arrays(self, case: OpenCase, patch: Patch) -> tuple[np.ndarray, ...]:
        """Read a patch; see the class."""
        sampler, offset = self.sampler, patch.offset
        sides, axes = sampler.patch_dhw, sampler.axes
        volumes = [case.image_cdhw] if case.label is None else [case.image_cdhw, case.label]
        drop = (slice(None), 0) if axes == 2 else ...
        if self.compiled or not patch.warped:
            read = [read_patch(volume, patch, sides, half=self.half) for volume in volumes]
        else:
            start, end = warp_box(patch, sides, case.shape_dhw)
            offset = offset - start
            read = [copy_box(volume, start, end - start, half=self.half) for volume in volumes]
        images = [array[drop] for array in read]
        if self.compiled:
            sampler.augmentation.apply_cpu(read[0], patch.intensity, axes, sampler.in_plane)
            return tuple(images)
        parameters = np.concatenate([np.array([patch.warped], np.float32), patch.intensity])
        return (*images, parameters, warp.dali_matrix(patch.matrix, offset, axes))


def read_patch(volume_cdhw: np.ndarray, patch: Patch, sides: Sequence[int], *, half: bool = False) -> np.ndarray:
    """The finished patch: (C, *sides), float32 for an image, the label's own type for a label.

    With ``half`` an image that is not warped keeps its own type.
    """
    if not patch.warped:
        return _mirrored_copy(volume_cdhw, patch, sides, half)
    shape, offset = np.asarray(sides), patch.offset
    if volume_cdhw.dtype.kind != "f":
        return warp.warp_label(volume_cdhw, patch.matrix, offset, shape)
    if volume_cdhw.dtype == np.float16:  # no arithmetic in half precision on a CPU: widen what is needed
        start, end = warp_box(patch, sides, volume_cdhw.shape[1:])
        volume_cdhw, offset = copy_box(volume_cdhw, start, end - start), offset - start
    return warp.warp_image(volume_cdhw, patch.matrix, offset, shape)


def _mirrored_copy(volume_cdhw: np.ndarray, patch: Patch, sides: Sequence[int], half: bool) -> np.ndarray:
    sign = np.sign(np.diag(patch.matrix)).astype(int)
    first = np.rint(patch.offset).astype(int)
    start = np.where(sign < 0, first - (np.asarray(sides) - 1), first)
    box = copy_box(volume_cdhw, start, sides, half=half)
    return np.ascontiguousarray(box[(slice(None), *(slice(None, None, int(s)) for s in sign))])
