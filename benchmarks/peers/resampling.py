"""Resampling of an image and its label: ours, the recipe of NVIDIA's nnU-Net, and nnU-Net v2's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from skimage.transform import resize

from benchmarks.peers.comparison import Comparison, compare, scaled, take_turns
from data_preprocessing.resample import resample_image, resample_label, resampled_shape

OLD_MM = (2.0, 0.8, 0.8)


def resample(rounds: int, scale: float) -> list[Comparison]:
    """Image and label to another voxel size."""
    rows = []
    image, label = ct_case(scaled((100, 512, 512), scale))
    for name, target in (("first axis", (1.5, 0.8, 0.8)), ("all axes", (1.5, 0.9, 0.9))):
        shape = resampled_shape(image.shape[1:], OLD_MM, target)
        kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        ways: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
            "ours": partial(our_resample, image, label, shape),
            "nvidia recipe": partial(recipe_resample, image, label, shape),
            "nnunetv2": partial(nnunet_resample, image, label, shape, OLD_MM, target),
        }
        ways["ours"]()  # compiles
        seconds = take_turns({n: _keeping(kept, n, way) for n, way in ways.items()}, min(rounds, 2), warm=False)
        span = float(np.ptp(image))
        error = float(np.abs(kept["ours"][0] - kept["nvidia recipe"][0]).max()) / span
        differing = float((kept["ours"][1] != kept["nvidia recipe"][1]).mean())
        check = f"image within {error:.1e} of its range, labels differ in {differing:.1e}"
        shapes = " -> ".join("x".join(map(str, s)) for s in (image.shape[1:], shape))
        rows += compare("resample", f"{name}, {shapes}", seconds, unit="CPU s", check=check)
    return rows


def our_resample(image: np.ndarray, label: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    return resample_image(image, shape), resample_label(label, shape)


def recipe_resample(image: np.ndarray, label: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    return skimage_image(image, shape), class_by_class(label, shape)


def _keeping(kept: dict[str, Any], name: str, work: Callable[[], Any]) -> Callable[[], None]:
    def step() -> None:
        kept[name] = work()

    return step


def ct_case(shape_dhw: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A scan in Hounsfield units, (1, D, H, W) float32, and a label of four organs, uint8."""
    rng = np.random.default_rng(0)
    places = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape_dhw]
    d, h, w = np.meshgrid(*places, indexing="ij", sparse=True)
    image = np.where(d**2 * 0.5 + h**2 + w**2 < 0.9, 40.0, -1000.0).astype(np.float32)
    label = np.zeros(shape_dhw, np.uint8)
    for value, (a, b, c) in enumerate(((-0.3, -0.4, -0.3), (0.2, 0.3, -0.4), (0.3, -0.2, 0.4), (-0.2, 0.4, 0.3)), 1):
        organ = (d - a) ** 2 + (h - b) ** 2 + (w - c) ** 2 < 0.06
        label[organ] = value
        image[organ] = 40 + 50 * value
    image += 15 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(image)[None], label[None]


def skimage_image(image_cdhw: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """NVIDIA's recipe: cubic, channel by channel."""
    options: dict[str, Any] = {"order": 3, "mode": "edge", "cval": 0, "clip": True, "anti_aliasing": False}
    return np.stack([resize(channel, shape, **options) for channel in image_cdhw]).astype(np.float32)


def class_by_class(label_1dhw: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """NVIDIA's recipe: each class' mask linearly, kept from a half."""
    out = np.zeros((1, *shape), np.uint8)
    for value in np.unique(label_1dhw)[1:]:
        mask = resize((label_1dhw[0] == value).astype(float), shape, order=1, mode="edge", anti_aliasing=False)
        out[0][mask >= 0.5] = value
    return out


def nnunet_resample(
    image: np.ndarray, label: np.ndarray, shape: Sequence[int], old: Sequence[float], new: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net v2's default resampling, with the settings of its plans."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as to_shape

    common: dict[str, Any] = {"order_z": 0, "force_separate_z": None}
    return (
        to_shape(image, shape, old, new, is_seg=False, order=3, **common),
        to_shape(label.astype(np.int8), shape, old, new, is_seg=True, order=1, **common),
    )
