"""Opens preprocessed cases and cuts boxes out of them, through memory maps: a box costs its own bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cases.case import CaseError, open_array, read_info

OPEN_CASES = 64  # memory maps that one worker keeps: below the usual limit of 1024 files a process
NOTHING = np.zeros((0, 4), np.int32)  # the foreground of a case without a label
REMEDY = "delete the case's json and run preprocess.py again"


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

    def survey(self, cases: Sequence[str]) -> tuple[set[tuple[int, ...]], bool]:
        """Shapes (D, H, W) of these cases' volumes, and whether all are float16. Raises CaseError naming the file."""
        images = [open_array(self.folder, case, "x") for case in cases]
        return {image.shape[1:] for image in images}, all(image.dtype == np.float16 for image in images)

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


def copy_box(
    volume_cdhw: np.ndarray,
    start: Sequence[int] | np.ndarray,
    size: Sequence[int] | np.ndarray,
    *,
    half: bool = False,
) -> np.ndarray:
    """Copy a box, zeros where it leaves the volume; images become float32, or with ``half`` stay as they are."""
    dtype = np.float32 if volume_cdhw.dtype.kind == "f" and not half else volume_cdhw.dtype
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
