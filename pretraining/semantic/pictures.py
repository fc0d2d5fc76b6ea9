"""A picture of discovered patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cases.files import whole_file


def draw_patterns(path: Path, cubes: np.ndarray) -> None:
    """One row a class, its instances beside each other: middle slices along D of the first channel.

    Args:
        path: of the PNG file.
        cubes: (classes, instances, C, D, H, W) in [0, 1].
    """
    rows, columns = cubes.shape[:2]
    slices = cubes[:, :, 0, cubes.shape[3] // 2, ::-1]  # row 0 of a picture is at its top
    figure = Figure(figsize=(columns + 0.6, rows + 0.3), dpi=80, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for label, line in enumerate(slices):
        grid[label, 0].set_ylabel(str(label), rotation=0, ha="right", va="center", fontsize=8)
        for axes, image in zip(grid[label], line, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
    figure.suptitle("patterns: one row a class, nearest instances from the left", fontsize=9)
    with whole_file(path, keep_suffix=True) as temporary:
        figure.savefig(temporary)
