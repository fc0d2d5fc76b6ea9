"""A case from its NIfTI files to stored arrays: ours, the recipe of NVIDIA's nnU-Net, and nnU-Net v2's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.made_up import made_up_plan
from benchmarks.peers.comparison import Comparison, compare, scaled, take_turns
from benchmarks.peers.resampling import OLD_MM, class_by_class, ct_case, skimage_image
from cases.plan import Normalization, Plan
from cases.volumes import Geometry, write_volume
from data_preprocessing.layouts.dataset import Scan
from data_preprocessing.preprocessor import run
from data_preprocessing.resample import resampled_shape

CT = Normalization(scheme="ct", mean=80.0, std=120.0, lower=-150.0, upper=300.0)
CLASSES = 5  # background and four labels


def preprocess(rounds: int, scale: float) -> list[Comparison]:
    """A case from its NIfTI files to arrays on disk: read, crop, resample, normalise, write."""
    image, label = ct_case(scaled((100, 512, 512), scale))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        geometry = Geometry.of(image.shape[1:], OLD_MM, np.diag([0.8, 0.8, 2.0, 1.0]))
        files = folder / "case_image.nii.gz", folder / "case_label.nii.gz"
        write_volume(files[0], image[0].astype(np.int16), geometry)
        write_volume(files[1], label[0], geometry)
        for name, target in (("first axis", (1.5, 0.8, 0.8)), ("all axes", (1.5, 0.9, 0.9))):
            plan = made_up_plan(
                scaled((96, 128, 128), scale),
                labels=tuple(f"class {i}" for i in range(CLASSES)),
                spacing_mm=target,
                normalization=(CT,),
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
