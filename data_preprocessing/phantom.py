"""Made-up scans in the Decathlon's layout, for the quick start, tests and benchmarks.

``python -m data_preprocessing.phantom --out F --cases 20`` writes ``F/dataset.json``, ``F/imagesTr``,
``F/labelsTr``, ``F/imagesTs`` and, to compare with, ``F/labelsTs``. A scan is a body (an ellipsoid,
nothing around it) with an organ (class 1), a small lesion inside the organ (class 2), a vessel and, if
asked for, lungs full of air and vessels. The same settings give the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from cases.files import write_json
from cases.volumes import Geometry, write_volume

LABELS = ("background", "organ", "lesion")
CT_HU = {"air": -1000.0, "body": 40.0, "organ": 130.0, "lesion": 250.0, "vessel": 320.0, "lung": -850.0}
MRI_LEVELS = {"air": 0.0, "body": 300.0, "organ": 520.0, "lesion": 800.0, "vessel": 120.0, "lung": 40.0}
NOISE = {"CT": 15.0, "MRI": 25.0}


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """What the made-up scans are like.

    Attributes:
        shape_dhw: voxels; each case's own shape is up to a tenth smaller.
        spacing_mm: (D, H, W).
        modality: "CT" in Hounsfield units, or "MRI" with zeros outside the body.
        channels: contrasts of a scan.
        files: "4d" puts channels into one file, "channels" each into its own (``_0000``, ``_0001``, ...); "brats"
            writes the challenge's folders, names and values (0, 1, 2, 4), of four channels.
        lungs: whether there are lungs, as the tissue filter of Models Genesis looks for.
        tilt_deg: turn of the scan's axes against the patient's, as in an oblique acquisition.
        seed: of everything random.
    """

    shape_dhw: tuple[int, int, int] = (40, 56, 48)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    modality: Literal["CT", "MRI"] = "MRI"
    channels: int = 1
    files: Literal["4d", "channels", "brats"] = "4d"
    lungs: bool = False
    tilt_deg: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.shape_dhw) < 8 or min(self.spacing_mm) <= 0 or self.channels < 1:
            raise ValueError(f"a phantom needs sides of 8 voxels, positive spacing and a channel, got {self}")
        if self.files == "brats" and (self.channels, self.modality) != (4, "MRI"):
            raise ValueError("a phantom of BraTS has --channels 4 of --modality MRI")


def draw(phantom: Phantom, index: int) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """One made-up scan: image_cdhw float32, label uint8 (1, D, H, W), geometry."""
    rng = np.random.default_rng([phantom.seed, index])
    shape = [side - int(rng.integers(0, side // 10 + 1)) for side in phantom.shape_dhw]
    geometry = Geometry.of(shape, phantom.spacing_mm, _affine(phantom, shape, rng))
    tissues = _tissues(shape, phantom, rng)
    image = np.stack([_contrast(tissues, phantom, channel, rng) for channel in range(phantom.channels)])
    label = tissues["organ"].astype(np.uint8)
    label[tissues["lesion"]] = 2
    return image, label[None], geometry


def _affine(phantom: Phantom, shape_dhw: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Rotation about x by the tilt, voxel sizes, and a place in the scanner."""
    c, s = np.cos(np.radians(phantom.tilt_deg)), np.sin(np.radians(phantom.tilt_deg))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * phantom.spacing_mm[::-1]
    affine[:3, 3] = np.round(rng.uniform(-80, 80, 3), 1)
    return affine


def _tissues(shape_dhw: Sequence[int], phantom: Phantom, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Boolean maps, in the order in which they cover each other."""
    extent = np.array(shape_dhw) * np.array(phantom.spacing_mm)
    places = [(np.arange(n) + 0.5) * step for n, step in zip(shape_dhw, phantom.spacing_mm, strict=True)]
    grid = np.stack(np.meshgrid(*places, indexing="ij")).astype(np.float32)
    smooth = [4.0 * min(phantom.spacing_mm) / step for step in phantom.spacing_mm]
    bumps = _unit(ndimage.gaussian_filter(rng.normal(size=shape_dhw), smooth))

    def ellipsoid(centre: np.ndarray, radii: np.ndarray, roughness: float = 0.0) -> np.ndarray:
        scaled = (grid - centre.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
        return (scaled**2).sum(axis=0) + roughness * bumps < 1

    body = ellipsoid(extent / 2, extent * 0.47)
    centre = extent * (np.array([0.5, 0.45, 0.38]) + rng.uniform(-0.05, 0.05, 3))
    radii = extent * np.array([0.24, 0.22, 0.2]) * rng.uniform(0.85, 1.15, 3)
    organ = ellipsoid(centre, radii, 0.12) & body
    radius = np.full(3, max(0.45 * radii.min(), 2 * min(phantom.spacing_mm))) * rng.uniform(0.9, 1.1)
    lesion = ellipsoid(centre + rng.uniform(-0.35, 0.35, 3) * radii, radius) & organ
    bend = extent[1] * (0.72 + 0.05 * np.sin(grid[0] / extent[0] * np.pi * 2 + rng.uniform(0, 6)))
    vessel = (grid[1] - bend) ** 2 + (grid[2] - 0.6 * extent[2]) ** 2 < (0.05 * extent[2]) ** 2
    tissues = {"body": body}
    if phantom.lungs:
        sides = [ellipsoid(extent * np.array([0.5, 0.5, x]), extent * np.array([0.45, 0.35, 0.17])) for x in (0.3, 0.7)]
        lung = (sides[0] | sides[1]) & body
        tissues |= {"lung": lung, "branches": lung & (bumps > 2.0)}
    return tissues | {"vessel": vessel & body & ~organ, "organ": organ, "lesion": lesion}


def _contrast(tissues: dict[str, np.ndarray], phantom: Phantom, channel: int, rng: np.random.Generator) -> np.ndarray:
    """float32, (D, H, W): levels, texture, slow shading (MRI) and noise."""
    levels = CT_HU if phantom.modality == "CT" else MRI_LEVELS
    body = tissues["body"]
    image = np.full(body.shape, levels["air"], np.float32)
    for name, inside in tissues.items():
        level = levels["vessel" if name == "branches" else name]
        if channel and phantom.modality == "MRI":  # another sequence, another level
            level *= (0.6, 1.3, 0.8)[(channel + len(name)) % 3]
        image[inside] = level
    noise = NOISE[phantom.modality]
    image += noise * _unit(ndimage.gaussian_filter(rng.normal(size=body.shape), 1.5)).astype(np.float32)
    image += noise * rng.normal(size=body.shape).astype(np.float32)
    if phantom.modality == "CT":
        return np.rint(np.clip(image, -1024, 3071)).astype(np.float32)
    image *= rng.uniform(0.8, 1.25)  # MRI has no unit
    return np.where(body, np.maximum(np.rint(image), 1), 0).astype(np.float32)


def _unit(noise: np.ndarray) -> np.ndarray:
    return noise / noise.std()


def write_dataset(folder: Path, phantom: Phantom, *, cases: int, test_cases: int = 2) -> None:
    """Write a dataset of made-up scans; ``dataset.json`` comes last."""
    folder = Path(folder)
    if phantom.files == "brats":
        _write_brats(folder, phantom, cases, test_cases)
        return
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    training, test = [], []
    for index in range(cases + test_cases):
        image, label, geometry = draw(phantom, index)
        case, part = f"phantom_{index:03d}", "Tr" if index < cases else "Ts"
        files = _write_image(folder, f"images{part}", case, image, geometry, phantom)
        write_volume(folder / f"labels{part}" / f"{case}.nii.gz", label[0], geometry)
        if part == "Tr":
            training.append({"image": files, "label": f"./labelsTr/{case}.nii.gz"})
        else:
            test.append(files)
    contrasts = ["CT"] * phantom.channels if phantom.modality == "CT" else [f"MRI{i}" for i in range(phantom.channels)]
    description = {
        "name": folder.name,
        "description": "made-up scans",
        "tensorImageSize": "4D" if phantom.channels > 1 else "3D",
        "modality": {str(i): contrast for i, contrast in enumerate(contrasts)},
        "labels": {str(value): name for value, name in enumerate(LABELS)},
        "numTraining": cases,
        "numTest": test_cases,
        "training": training,
        "test": test,
    }
    write_json(folder / "dataset.json", description)


def _write_brats(folder: Path, phantom: Phantom, cases: int, test_cases: int) -> None:
    """A folder for each case; the last ``test_cases`` have no ``_seg``."""
    for index in range(cases + test_cases):
        image, label, geometry = draw(phantom, index)
        case = f"BraTS2021_{index:05d}"
        (folder / case).mkdir(parents=True, exist_ok=True)
        for channel, name in zip(image, ("flair", "t1", "t1ce", "t2"), strict=True):
            write_volume(folder / case / f"{case}_{name}.nii.gz", channel.astype(np.int16), geometry)
        if index < cases:
            write_volume(folder / case / f"{case}_seg.nii.gz", _tumour(label[0]), geometry)


def _tumour(label_dhw: np.ndarray) -> np.ndarray:
    """The organ as oedema (2), the lesion as enhancing tumour (4) around a necrotic core (1)."""
    lesion = label_dhw == 2
    tumour = np.where(label_dhw == 1, 2, 0).astype(np.uint8)
    tumour[lesion] = 4
    tumour[ndimage.binary_erosion(lesion)] = 1
    return tumour


def _write_image(
    folder: Path, images: str, case: str, image_cdhw: np.ndarray, geometry: Geometry, phantom: Phantom
) -> str | list[str]:
    """Write a scan's file or files; returns what dataset.json says of them."""
    stored = image_cdhw.astype(np.int16)
    if phantom.files == "4d":
        name = f"./{images}/{case}.nii.gz"
        write_volume(folder / name, stored[0] if len(stored) == 1 else stored, geometry)
        return name
    names = [f"./{images}/{case}_{channel:04d}.nii.gz" for channel in range(len(stored))]
    for name, channel in zip(names, stored, strict=True):
        write_volume(folder / name, channel, geometry)
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    default = Phantom()
    parser = argparse.ArgumentParser(prog="python -m data_preprocessing.phantom", description="Make up a dataset.")
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--cases", type=int, default=20, help="labelled scans (default 20)")
    parser.add_argument("--test_cases", type=int, default=2, help="scans listed without label (default 2)")
    parser.add_argument("--shape_dhw", type=int, nargs=3, default=default.shape_dhw, help="voxels D H W")
    parser.add_argument("--spacing_mm", type=float, nargs=3, default=default.spacing_mm, help="voxel size D H W")
    parser.add_argument("--modality", choices=("CT", "MRI"), default=default.modality)
    parser.add_argument("--channels", type=int, default=default.channels)
    parser.add_argument(
        "--files", choices=("4d", "channels", "brats"), default=default.files, help="how channels are stored"
    )
    parser.add_argument("--lungs", action="store_true")
    parser.add_argument("--tilt_deg", type=float, default=default.tilt_deg)
    parser.add_argument("--seed", type=int, default=default.seed)
    given = vars(parser.parse_args(argv))
    folder, cases, test_cases = given.pop("out"), given.pop("cases"), given.pop("test_cases")
    given |= {name: tuple(given[name]) for name in ("shape_dhw", "spacing_mm")}
    try:
        write_dataset(folder, Phantom(**given), cases=cases, test_cases=test_cases)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{cases} training and {test_cases} test scans in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
