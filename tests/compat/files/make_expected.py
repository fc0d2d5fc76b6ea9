"""Gather what make.sh made in the present folder: small files beside this one, and numbers into expected.json."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import torch

KEPT = ["cases_3d", "cases_2d", "tumour_3d", "medicalnet", "raw/cases"]
SEGMENTATION = ["plain", "deep", "residual", "tumour", "flat", "medicalnet"]
RESUMED = ["plain", "classification", "genesis", "autoencoder", "semantic"]


def records(results: Path) -> dict[str, dict[str, float]]:
    """Losses and scores of DLLogger's file by epoch, without times and scores that are not defined."""
    lines = [json.loads(line.removeprefix("DLLL ")) for line in (results / "logs.json").read_text().splitlines()]
    return {
        str(line["step"]): {k: v for k, v in line["data"].items() if k not in ("Data wait %", "Train seconds")}
        for line in lines
        if isinstance(line["step"], int)
    }


def sums(results: Path) -> dict[str, list[float]]:
    """Sum and sum of squares of every tensor in a run's last checkpoint."""
    state = torch.load(results / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {k: [float(v.double().sum()), float(v.double().square().sum())] for k, v in state.items()}


def dice_of(name: str) -> dict[str, float]:
    """By class, from the line that evaluation prints."""
    line = re.search(r"Dice (\S+) over \d+ cases \((.*)\)", Path(f"said/{name}.txt").read_text())
    assert line, name
    classes = {words.rpartition(" ")[0]: float(words.rpartition(" ")[2]) for words in line[2].split(", ")}
    return {"Dice": float(line[1])} | classes


def label_maps() -> dict[str, np.ndarray]:
    """What prediction wrote, as NIfTI files hold it (x, y, z)."""
    found = {name: Path(f"results/scan_{name}/scan.nii.gz") for name in SEGMENTATION}
    found["tumour"] = Path("results/scan_tumour/tumour.nii.gz")
    for path in sorted(Path("results/folder_plain").rglob("*.nii.gz")):
        found[path.name.removesuffix(".nii.gz")] = path
    return {name: np.asarray(nibabel.load(path).dataobj).astype(np.uint8) for name, path in found.items()}


def main(files: Path) -> None:
    for name in KEPT:
        shutil.copytree(name, files / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    for name in ("scan.nii.gz", "tumour.nii.gz", "labels.csv", "list.txt"):
        shutil.copy(name, files)
    for name in {*SEGMENTATION, *RESUMED}:
        run = files / "runs" / name
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        shutil.copy(f"results/{name}/checkpoints/last.ckpt", run / "checkpoints")
        shutil.copy(f"results/{name}/params.json", run)
        if name in RESUMED:
            shutil.copy(f"results/{name}/logs.json", run)
    for name in ("features.npy", "features.json"):
        shutil.copy(f"results/autoencoder_whole/{name}", files / "runs" / "autoencoder")
    np.savez_compressed(files / "label_maps.npz", **label_maps())
    shutil.copy("results/scan_tumour/regions.json", files)
    exported = torch.load("results/plain.pth", weights_only=True)
    probabilities = np.load("results/scan_tumour/tumour.npy").astype(np.float64)
    expected = {
        "dice": {name: dice_of(f"evaluate_{name}") for name in SEGMENTATION}
        | {"list": dice_of("list_medicalnet"), "folder": dice_of("folder_plain")},
        "classification": {
            "summary": json.loads(Path("results/evaluate_classification/classification.json").read_text()),
            "rows": Path("results/evaluate_classification/classification.csv").read_text().splitlines(),
        },
        "mean_probabilities": probabilities.mean(axis=(1, 2, 3)).tolist(),
        "resumed": {
            n: {"records": records(Path(f"results/{n}_whole")), "sums": sums(Path(f"results/{n}_whole"))}
            for n in RESUMED
        },
        "transfer": {
            n: Path(f"results/transfer_{n}/pretrained.txt").read_text().splitlines()
            for n in ("genesis", "autoencoder", "semantic")
        },
        "nnunet_v2": {name: list(tensor.shape) for name, tensor in exported["network_weights"].items()},
    }
    (files / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
