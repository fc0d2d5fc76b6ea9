"""The peers' way to augment, to resample and to preprocess, and ours: parts of ``benchmark_peers.py``."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from skimage.transform import resize

from benchmarks import genesis as benchmark_genesis
from benchmarks.loader import LoaderBenchmark, interleave, make_volumes
from benchmarks.peers import Comparison, compare, take_turns
from cases.case import list_cases
from cases.plan import Normalization, Plan
from cases.volumes import Geometry, write_volume
from data_loading.augmentation.pipeline import Augmentation
from data_loading.module import LoaderSettings, patch_loader
from data_preprocessing.layouts.dataset import Scan
from data_preprocessing.preprocessor import run
from data_preprocessing.resample import resample_image, resample_label, resampled_shape

CT = Normalization(scheme="ct", mean=80.0, std=120.0, lower=-150.0, upper=300.0)
CLASSES = 5  # background and four labels
OLD_MM = (2.0, 0.8, 0.8)


def loader(rounds: int, scale: float) -> list[Comparison]:
    """Augmented samples a CPU second."""
    sizes = (
        ((40, 56, 40), (73, 80, 64), (80, 100, 90), 8),
        ((128, 128, 128), (205, 205, 205), (200, 362, 362), 2),
    )
    rows = []
    for patch, reading, volume, batch in sizes:
        patch_size, input_dhw, volume_dhw = ((_sides(s, scale)) for s in (patch, reading, volume))
        settings = LoaderBenchmark(
            patch_size=patch_size,
            volume_dhw=volume_dhw,
            batch_size=batch,
            steps=max(4, 64 // batch),
            rounds=rounds,
            warmup=3,
        )
        rates = _loader_rates(settings, input_dhw)
        pairs = zip(rates["ours"], rates["nnunetv2"], strict=True)
        what = f"patch {'x'.join(map(str, patch_size))}, nnU-Net v2's input {'x'.join(map(str, input_dhw))}"
        rows.append(
            Comparison(
                part="loader",
                what=what,
                peer="nnunetv2, without reading",
                ours=float(np.median([r[0] for r in rates["ours"]])),
                theirs=float(np.median([r[0] for r in rates["nnunetv2"]])),
                unit="samples/CPU s",
                ratio=float(np.median([a[0] / b[0] for a, b in pairs])),
                check="same set of augmentations",
            )
        )
    return rows


def _loader_rates(settings: LoaderBenchmark, input_dhw: tuple[int, ...]) -> dict[str, list[tuple[float, float]]]:
    transform = nnunet_transforms(settings.patch_size)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.standard_normal((1, *input_dhw), dtype=np.float32))
    label = torch.from_numpy(rng.integers(0, 3, (1, *input_dhw), dtype=np.int16))

    def theirs() -> None:
        for _ in range(settings.batch_size):
            out = transform(image=image.clone(), segmentation=label.clone())
            assert out["image"].shape[1:] == settings.patch_size

    with tempfile.TemporaryDirectory() as folder:
        plan = make_volumes(Path(folder), settings)
        loading = LoaderSettings(batch_size=settings.batch_size, num_workers=0, steps_per_epoch=10_000)
        cases = list_cases(Path(folder))
        with patch_loader(Path(folder), plan, cases, loading, Augmentation.nnunet()) as batches:
            stream = iter(batches)
            return interleave({"ours": lambda: next(stream), "nnunetv2": theirs}, settings)


def nnunet_transforms(patch_size: Sequence[int]) -> Any:
    """nnU-Net v2's own training transforms for an isotropic 3D patch."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    turn = math.radians(30)
    return nnUNetTrainer.get_training_transforms(
        tuple(patch_size), (-turn, turn), None, (0, 1, 2), False, use_mask_for_norm=[False]
    )


def resample(rounds: int, scale: float) -> list[Comparison]:
    """Image and label to another voxel size."""
    rows = []
    image, label = ct_case(_sides((100, 512, 512), scale))
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


def preprocess(rounds: int, scale: float) -> list[Comparison]:
    """A case from its NIfTI files to arrays on disk: read, crop, resample, normalise, write."""
    image, label = ct_case(_sides((100, 512, 512), scale))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        geometry = Geometry.of(image.shape[1:], OLD_MM, np.diag([0.8, 0.8, 2.0, 1.0]))
        files = folder / "case_image.nii.gz", folder / "case_label.nii.gz"
        write_volume(files[0], image[0].astype(np.int16), geometry)
        write_volume(files[1], label[0], geometry)
        for name, target in (("first axis", (1.5, 0.8, 0.8)), ("all axes", (1.5, 0.9, 0.9))):
            plan = Plan(
                name="peers_3d",
                dataset="Peers",
                dim=3,
                channels=("CT",),
                labels=tuple(f"class {i}" for i in range(CLASSES)),
                spacing_mm=target,
                patch_size=_sides((96, 128, 128), scale),
                normalization=(CT,),
                mirror_axes=(0, 1, 2),
            )
            scan = Scan(case="case", images=(files[0],), label=files[1])
            ways = {
                "ours": partial(_run_fresh, scan, plan, folder / "ours"),
                "nvidia recipe": partial(recipe, *files, target, folder),
                "nnunetv2": partial(nnunet_case, *files, target, folder),
            }
            ways["ours"]()  # compiles
            seconds = take_turns(ways, min(rounds, 2), warm=False)
            rows += compare("preprocess", f"{name} resampled", seconds, unit="CPU s", check="read, all steps, written")
    return rows


def _run_fresh(scan: Scan, plan: Plan, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (outcome,) = run([scan], plan, folder, pad_to_patch=True, float16=False, jobs=1)
    assert outcome.fault is None, outcome.fault


def recipe(image_file: Path, label_file: Path, target_mm: Sequence[float], folder: Path) -> None:
    """The steps of NVIDIA's preprocessing with its libraries."""
    scan: Any = nibabel.load(image_file)
    image = np.asarray(scan.dataobj, np.float32).transpose(2, 1, 0)[None]
    labels: Any = nibabel.load(label_file)
    label = np.asarray(labels.dataobj, np.uint8).transpose(2, 1, 0)[None]
    inside = np.argwhere(image[0] > image.min())
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(axis=0), inside.max(axis=0), strict=True))
    image, label = image[(slice(None), *box)], label[(slice(None), *box)]
    old = [float(z) for z in scan.header.get_zooms()[::-1]]
    shape = resampled_shape(image.shape[1:], old, target_mm)
    stored = skimage_image(image, shape)
    assert CT.lower is not None and CT.upper is not None and CT.mean is not None and CT.std is not None
    stored = (np.clip(stored, CT.lower, CT.upper) - CT.mean) / CT.std
    np.save(folder / "recipe_x.npy", stored.astype(np.float32), allow_pickle=False)
    np.save(folder / "recipe_y.npy", class_by_class(label, shape), allow_pickle=False)


def nnunet_case(image_file: Path, label_file: Path, target_mm: Sequence[float], folder: Path) -> None:
    """nnU-Net v2's DefaultPreprocessor on the same files."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    options = {"order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "peers",
        "architecture": {},  # preprocessing reads none
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": list(target_mm),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, **options},
        "resampling_fn_seg_kwargs": {"is_seg": True, **options, "order": 1},
    }
    intensities = {"mean": CT.mean, "std": CT.std, "percentile_00_5": CT.lower, "percentile_99_5": CT.upper}
    plans = PlansManager(
        {
            "dataset_name": "Peers",
            "plans_name": "peers",
            "image_reader_writer": "NibabelIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {"0": intensities},
            "configurations": {"3d_fullres": configuration},
        }
    )
    labels = {"background": 0} | {f"class {i}": i for i in range(1, CLASSES)}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
    data, seg, _ = DefaultPreprocessor(verbose=False).run_case(
        [str(image_file)], str(label_file), plans, plans.get_configuration("3d_fullres"), description
    )
    np.save(folder / "nnunet_x.npy", data, allow_pickle=False)
    np.save(folder / "nnunet_y.npy", seg, allow_pickle=False)


def genesis(rounds: int, scale: float) -> list[Comparison]:
    """Models Genesis pairs of 32x64x64, all settings as published."""
    del scale  # the published patch is small
    found: dict[str, Any] = benchmark_genesis.run(repeats=10 * rounds)
    pair = found["pair"]
    return [
        Comparison(
            part="genesis",
            what="a pair of 32x64x64",
            peer="published loops",
            ours=pair["ours"]["mean_ms"],
            theirs=pair["loop"]["mean_ms"],
            unit="CPU ms",
            ratio=pair["ratio"],
            check=f"{found['pairs_per_second']:.0f} pairs/s a core",
        )
    ]


def _sides(shape: Sequence[int], scale: float) -> tuple[int, int, int]:
    d, h, w = (max(16, int(n * scale)) // 2 * 2 if scale < 1 else n for n in shape)
    return d, h, w
