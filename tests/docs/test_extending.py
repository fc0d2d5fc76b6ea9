"""docs/extending.md: the files that it shows are run from the command line, from outside the tree and inside it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import main
import preprocess
from cases.case import open_array
from cases.registry import load_object
from cases.volumes import read_volume, use_formats
from data_preprocessing.phantom import Phantom, write_dataset
from tests.data_loading.augmentation.ways import run_graph
from tests.docs.pages import PLACES, ROOT, blocks
from training.losses.dice_ce import Dice

PAGE = ROOT / "docs/extending.md"
FILES = {title: text for title, text in blocks(PAGE, "python") if re.fullmatch(r"\w+\.py", title)}
LINES = {title.removeprefix("line in "): text for title, text in blocks(PAGE, "python") if title.startswith("line in ")}
SHORT = "--gpus 0 --depth 1 --batch_size 2 --epochs 1 --steps_per_epoch 2".split()
LEFT_OUT = ("Task90_Phantom", ".*", "__pycache__", "site", "quickstart", "node_modules")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, six made-up labelled scans as cases, and the same scans as archives."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_dataset(folder / "Task90_Phantom", Phantom(shape_dhw=(16, 24, 20), seed=3), cases=6, test_cases=1)
    flags = ["--dataset", folder / "Task90_Phantom", "--results", folder, "--n_jobs", 1]
    assert preprocess.main([str(flag) for flag in flags]) == 0
    (folder / "archives").mkdir()
    for path in sorted((folder / "Task90_Phantom/imagesTr").iterdir())[:2]:
        array, geometry = read_volume([path])
        grid: dict[str, Any] = {"spacing_mm": geometry.spacing_mm, "affine": geometry.affine_array}
        np.savez(folder / "archives" / path.name.replace(".nii.gz", ".npz"), array=array, **grid)
    return folder


@pytest.fixture(autouse=True)
def modules_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the page's files leave in this process goes away again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    use_formats(())
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def run(folder: Path, results: str, *flags: object) -> dict[str, Any]:
    """``main.py`` in this process, over the cases of ``folder``; the settings that it left behind."""
    data = ["--data", folder / "Task90_Phantom_3d", "--results", folder / results]
    assert main.main([str(text) for text in (*data, *SHORT, *flags)]) == 0
    settings: dict[str, Any] = json.loads((folder / results / "params.json").read_text())
    assert np.isfinite(last_record(folder / results)["Train Loss"])
    assert (folder / results / "checkpoints/last.ckpt").is_file()
    return settings


def last_record(results: Path) -> dict[str, float]:
    lines = (results / "logs.json").read_text().splitlines()
    records = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    found: dict[str, float] = [record["data"] for record in records if record.get("step") == 0][-1]
    return found


def test_the_page_shows_every_file_and_line() -> None:
    assert set(FILES) == set(PLACES)
    assert len(LINES) == 5  # one for each of the five additions


def test_a_loss_from_outside(folder: Path) -> None:
    own = f"{folder / 'tversky.py'}:Tversky"
    settings = run(folder, "tversky", *"--filters 4 8 --num_workers 0 --tversky_alpha 0.2 --loss".split(), own)
    assert settings["loss"] == own
    assert settings["tversky_alpha"] == 0.2


def test_the_loss_is_dice_where_both_errors_weigh_the_same(folder: Path) -> None:
    tversky = load_object(f"{folder / 'tversky.py'}:Tversky")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 8, 10, generator=generator)
    label = torch.randint(0, 3, (2, 1, 6, 8, 10), generator=generator, dtype=torch.uint8)
    even = tversky(tversky.settings(tversky_alpha=0.5))(logits, label)
    assert even.item() == pytest.approx(Dice(smooth=1e-5)(logits, label).item(), abs=1e-6)
    assert tversky(tversky.settings(tversky_alpha=0.1))(logits, label).item() != pytest.approx(even.item(), abs=1e-3)


def test_an_effect_from_outside(folder: Path) -> None:
    own = f"{folder / 'bias_field.py'}:BiasField"
    flags = ["--own_effects", own, "--bias_field", 1, "--bias_field_range", 0.2, 0.3, "--filters", 4, 8]
    settings = run(folder, "bias_field", *flags, "--num_workers", 1)
    assert settings["own_effects"] == [own]
    assert settings["bias_field_range"] == [0.2, 0.3]


def test_both_forms_of_the_effect_agree(folder: Path) -> None:
    kind = load_object(f"{folder / 'bias_field.py'}:BiasField")
    effect = kind(kind.settings(bias_field=1.0))
    parameters = effect.draw(np.random.default_rng(0), 2, 3)
    assert (abs(parameters) >= 0.1).all() and (abs(parameters) <= 0.4).all()
    image = np.random.default_rng(1).random((2, 12, 16, 20), np.float32)
    compiled = image.copy()
    effect.apply_cpu(compiled, parameters, False)
    graph = run_graph(lambda i, p: (effect.apply_dali(i, p, image.shape, False),), image, parameters)
    assert np.abs(graph - compiled).max() < 1e-6
    assert np.abs(compiled - image).max() > 0.05


def test_an_encoder_from_outside(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = f"{folder / 'strided.py'}:StridedEncoder"
    settings = run(folder, "strided", *"--num_workers 0 --width 6 --encoder".split(), own)
    assert settings["width"] == 6
    assert "filters 6 12" in capfd.readouterr().out


def test_a_format_from_outside(folder: Path) -> None:
    flags = ["--dataset", folder / "archives", "--results", folder, "--n_jobs", 1]
    own = ["--formats", f"{folder / 'npz_scan.py'}:NpzScan"]
    assert preprocess.main([str(flag) for flag in (*flags, *own)]) == 0
    stored = open_array(folder / "archives_3d", "phantom_000", "x")
    assert stored.shape == open_array(folder / "Task90_Phantom_3d", "phantom_000", "x").shape
    assert (
        np.corrcoef(stored.ravel(), open_array(folder / "Task90_Phantom_3d", "phantom_000", "x").ravel())[0, 1] > 0.99
    )


def test_a_method_from_outside(folder: Path) -> None:
    own = f"{folder / 'masked.py'}:Masked"
    flags = ["--exec_mode", "pretrain", "--method", own, "--hidden_share", 0.5, "--block", 4]
    settings = run(folder, "masked", *flags, *"--filters 4 8 --num_workers 1 --picture_every 1".split())
    assert (settings["hidden_share"], settings["block"]) == (0.5, 4)
    assert list((folder / "masked/checkpoints").glob("restoration-*.ckpt"))
    mask = sys.modules["mask"]
    hidden = mask.Mask(mask.MaskSettings(hidden_share=0.5, block=2)).apply_cpu(np.ones((1, 32, 32, 32), np.float32), 7)
    assert hidden[0].mean() == pytest.approx(0.5, abs=0.05)


@pytest.fixture(scope="module")
def tree(folder: Path) -> Path:
    """A copy of the project with the page's files in their places and its lines in their tables."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name, place in PLACES.items():
        target = tree / place
        if not target.parent.is_dir():
            target.parent.mkdir()
            (target.parent / "__init__.py").touch()
        target.write_text(FILES[name].replace("from mask import", "from pretraining.masked.mask import"))
    for path, line in LINES.items():
        text = (tree / path).read_text(encoding="utf-8")
        table = re.search(r"^[A-Z]+: Registry\[.*?^    \},$", text, re.MULTILINE | re.DOTALL)
        assert table is not None, f"{path} has no table of variants"
        with_line = table[0].removesuffix("    },") + f"        {line.strip()}\n    }},"
        (tree / path).write_text(text.replace(table[0], with_line), encoding="utf-8")
    return tree


def test_all_five_in_the_tree(tree: Path, folder: Path) -> None:
    results = folder / "inside"
    cases = ["--data", results / "Task90_Phantom_3d", *SHORT, "--num_workers", 0]
    same = ["--loss", "tversky", "--tversky_alpha", 0.2, "--encoder", "strided", "--width", 6, "--bias_field", 1]
    method = ["--exec_mode", "pretrain", "--method", "masked", "--block", 4, "--filters", 4, 8]
    for argv in (
        ["preprocess.py", "--dataset", folder / "archives", "--results", results, "--n_jobs", 1],
        ["preprocess.py", "--dataset", folder / "Task90_Phantom", "--results", results, "--n_jobs", 1],
        ["main.py", *cases, "--results", results / "train", *same],
        ["main.py", *cases, "--results", results / "masked", *method],
    ):
        done = subprocess.run([sys.executable, *map(str, argv)], cwd=tree, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (results / "archives_3d/phantom_001_x.npy").is_file()
    settings = json.loads((results / "train/params.json").read_text())
    assert (settings["loss"], settings["encoder"], settings["bias_field"]) == ("tversky", "strided", 1)
    assert np.isfinite(last_record(results / "train")["Train Loss"])
    assert np.isfinite(last_record(results / "masked")["Train Loss"])
