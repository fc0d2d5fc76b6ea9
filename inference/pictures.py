"""Pictures of a prediction over its scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from cases.files import whole_file

COLOURS = tuple(to_hex(c) for c in ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6"))


def draw_overlay(
    path: Path,
    title: str,
    prediction_dhw: np.ndarray,
    label_dhw: np.ndarray,
    image_dhw: np.ndarray | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> int:
    """Draw the slice along D that holds most of both maps: true outlines solid, predicted ones dashed.

    Args:
        path: of the PNG file.
        title: written above.
        prediction_dhw, label_dhw: class values.
        image_dhw: the background; None: the true label map itself.
        spacing_mm: (D, H, W), for the picture's proportions.

    Returns:
        the slice.
    """
    area = ((label_dhw > 0).astype(np.int64) + (prediction_dhw > 0)).sum(axis=(1, 2))
    chosen = int(area.argmax())
    figure = Figure(figsize=(6, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ground = label_dhw if image_dhw is None else image_dhw
    low, high = np.percentile(ground[chosen], (0.5, 99.5)) if image_dhw is not None else (0, max(1, label_dhw.max()))
    aspect = spacing_mm[1] / spacing_mm[2]
    axes.imshow(ground[chosen], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect, origin="lower")
    for value in range(1, int(max(label_dhw.max(), prediction_dhw.max())) + 1):
        colour = COLOURS[(value - 1) % len(COLOURS)]
        for volume, style in ((label_dhw, "solid"), (prediction_dhw, "dashed")):
            mask = volume[chosen] == value
            if mask.any() and not mask.all():
                axes.contour(mask, levels=[0.5], colors=colour, linestyles=style, linewidths=1.2)
    axes.set_title(f"{title}\nslice {chosen}: true solid, predicted dashed", fontsize=9)
    axes.set_axis_off()
    with whole_file(path, keep_suffix=True) as temporary:
        figure.savefig(temporary)
    return chosen
