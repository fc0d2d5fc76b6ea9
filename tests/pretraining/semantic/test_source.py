"""Cubes of an index, published cubes and whole scans, through the loader."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cases.case import read_info
from data_loading.module import LoaderSettings
from pretraining.autoencoder.source import ScanPatches
from pretraining.corruption import Unchanged
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.device import transform_on_device
from pretraining.genesis.transforms import transform_pair
from pretraining.loader import RestorationDataModule, restoration_loader
from pretraining.semantic.files import write_published
from pretraining.semantic.patterns import Extents, PatternError, Patterns, PatternSettings, cut, discover
from pretraining.semantic.source import PatternPatches, PublishedPatterns
from pretraining.semantic.transformations import SemanticTransformations
from pretraining.source import Patches
from tests.conftest import make_plan

SEMANTIC = SemanticTransformations(elastic_sigma=2.0, elastic_alpha=20.0)
RNG = np.random.default_rng(0)


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).uniform(-2, 2, (1, 12, 16, 20))


@pytest.fixture
def found(make_folder: Callable) -> tuple[Path, Patterns]:
    """Eight cases, three classes of four instances at three resolutions; two cases are held out."""
    folder, _, names = make_folder(8, image=noise, labelled=False)
    settings = PatternSettings(cube_size=(8, 6, 4), classes=3, instances=4, border=(1, 1, 1), tissue_filter=False)
    extents = Extents.of([read_info(folder, name) for name in names])
    vectors = np.random.default_rng(0).normal(size=(8, 5))
    return folder, discover(names, vectors, extents, names[6:], settings, say=lambda line: None)


def batches(patches: Patches, **changes: object) -> list[dict[str, np.ndarray]]:
    loading = LoaderSettings(batch_size=4, num_workers=0, seed=3)
    plan = make_plan(patches.read(0, RNG, (4, 6, 8)).shape[1:])
    steps = len(patches) // 4
    with restoration_loader(patches, plan, loading, GenesisCorruption(SEMANTIC), steps=steps, **changes) as loader:  # type: ignore[arg-type]
        return [{key: value.numpy() for key, value in batch.items()} for batch in loader]


def test_an_epoch_is_every_cube_once_with_its_class(found: tuple[Path, Patterns]) -> None:
    folder, patterns = found
    patches = PatternPatches(folder, patterns, patterns.training, channels=1)
    assert len(patches) == 36 and patches.names == tuple(f"case_{i:02d}" for i in range(6))
    expected = sorted((patches.read(i, RNG, (4, 6, 8)).tobytes(), int(c)) for i, c in enumerate(patches.classes))
    seen = []
    for batch in batches(patches):
        for target, label, image in zip(batch["target"], batch["class"], batch["image"], strict=True):
            assert (image != target).mean() > 0.5
            seen.append((target.tobytes(), int(label)))
    assert sorted(seen) == expected
    np.testing.assert_array_equal(batches(patches)[2]["image"], batches(patches)[2]["image"])


def test_classes_travel_with_the_batch_to_the_device(
    found: tuple[Path, Patterns], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, patterns = found
    patches = PatternPatches(folder, patterns, patterns.training, channels=1)
    by_workers = batches(patches)
    monkeypatch.setattr("pretraining.loader.workers_corrupt", lambda corruption, device_id: False)
    for ours, theirs in zip(batches(patches), by_workers, strict=True):
        assert ours["class"].dtype == np.int64 and ours["class"].shape == (4,)
        np.testing.assert_array_equal(ours["class"], theirs["class"])
        np.testing.assert_allclose(ours["image"], theirs["image"], atol=1e-4)


def test_a_row_is_read_from_its_place(found: tuple[Path, Patterns]) -> None:
    folder, patterns = found
    patches = pickle.loads(pickle.dumps(PatternPatches(folder, patterns, patterns.validation, channels=1)))
    assert patches.names == ("case_06", "case_07")
    case, row = patterns.cases[patterns.validation[3, 1]], patterns.validation[3]
    expected = cut(noise(int(case[-2:])).astype(np.float32), read_info(folder, case), row, (4, 6, 8))
    np.testing.assert_array_equal(patches.read(3, RNG, (4, 6, 8)), expected)
    with pytest.raises(PatternError, match="no cubes of this part"):
        PatternPatches(folder, patterns, patterns.validation[:0], channels=1)


def test_published_files_give_the_same_cubes(found: tuple[Path, Patterns], tmp_path: Path) -> None:
    folder, patterns = found
    write_published(folder, patterns, tmp_path / "published", 0, say=lambda line: None)
    ours = PatternPatches(folder, patterns, patterns.training, channels=1)
    theirs = PublishedPatterns(tmp_path / "published", "train", 0)
    assert theirs.size_dhw == (4, 6, 8) and len(theirs) == 36
    for number in (0, 13, 35):
        resolution, instance = divmod(number, 12)  # one file a resolution
        row = 3 * instance + resolution
        np.testing.assert_array_equal(theirs.read(number, RNG, (4, 6, 8)), ours.read(row, RNG, (4, 6, 8)))
        assert theirs.classes[number] == ours.classes[row]
    two = pickle.loads(pickle.dumps(PublishedPatterns(tmp_path / "published", "train", 0, n_class=2)))
    assert len(two) == 24 and set(two.classes.tolist()) == {0, 1}
    np.testing.assert_array_equal(two.read(8, RNG, (4, 6, 8)), theirs.read(12, RNG, (4, 6, 8)))


def test_whole_scans_are_resized_without_their_padding(make_folder: Callable) -> None:
    folder, _, names = make_folder(3, image=noise, labelled=False)
    scans = ScanPatches(folder, names, channels=1)
    np.testing.assert_allclose(scans.read(1, RNG, (12, 16, 20)), (noise(1) + 2) / 4, atol=1e-6)
    assert scans.read(1, RNG, (8, 8, 8)).shape == (1, 8, 8, 8)
    target = batches_of_scans(scans)
    np.testing.assert_array_equal(target["image"], target["target"])
    assert "class" not in target


def batches_of_scans(scans: ScanPatches) -> dict[str, np.ndarray]:
    loading = LoaderSettings(batch_size=3, num_workers=0)
    with restoration_loader(scans, make_plan((8, 8, 8)), loading, Unchanged(), steps=1) as loader:
        return {key: value.numpy() for key, value in next(iter(loader)).items()}


def test_validation_cubes_are_corrupted_alike_in_every_epoch(found: tuple[Path, Patterns]) -> None:
    folder, patterns = found
    train, val = (PatternPatches(folder, patterns, rows, 1) for rows in (patterns.training, patterns.validation))
    data = RestorationDataModule(
        train, val, make_plan((4, 6, 8)), LoaderSettings(batch_size=6, num_workers=0), GenesisCorruption(SEMANTIC)
    )
    assert data.steps() == (6, 1)
    loader = data.val_dataloader()
    first, second = ([batch["image"].numpy() for batch in loader] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    data.teardown("fit")


def test_2000_cubes_are_read_faster_than_they_are_corrupted(make_folder: Callable) -> None:
    """Reading from the index adds less to a pair than its transformations take; no cube is stored."""
    shape = (40, 90, 90)
    folder, _, names = make_folder(
        6, shape_dhw=shape, labelled=False, image=lambda i: np.random.default_rng(i).uniform(-2, 2, (1, *shape))
    )
    settings = PatternSettings(classes=10, instances=6, val_instances=1, tissue_filter=False, distance=2)
    extents = Extents.of([read_info(folder, name) for name in names])
    vectors = np.random.default_rng(0).normal(size=(6, 5))
    patterns = discover(names, vectors, extents, [], settings, say=lambda line: None)
    patches, genesis = PatternPatches(folder, patterns, patterns.training, channels=1), SemanticTransformations()
    assert len(patches) == 180
    cube = patches.read(1, RNG, patterns.cube_dhw)
    transform_pair(cube, 1, genesis)
    reading, corrupting = [], []
    for _ in range(3):  # the least of interleaved times
        for times, work in (
            (reading, lambda i: patches.read(i, RNG, patterns.cube_dhw)),
            (corrupting, lambda i: transform_pair(cube, i, genesis)),
        ):
            started = time.process_time()
            for i in range(60):
                work(i)
            times.append((time.process_time() - started) / 60)
    assert min(reading) < min(corrupting)
    assert len(list(folder.rglob("*.npy"))) == 6


def test_elastic_on_the_device_is_the_compiled_one(found: tuple[Path, Patterns]) -> None:
    folder, patterns = found
    patches = PatternPatches(folder, patterns, patterns.training, channels=1)
    cubes = np.stack([patches.read(i, RNG, (4, 6, 8)) for i in range(8)])
    image, target = transform_on_device(torch.from_numpy(cubes), list(range(8)), SEMANTIC)
    expected = [transform_pair(cube, seed, SEMANTIC) for seed, cube in enumerate(cubes)]
    np.testing.assert_allclose(image.numpy(), [pair[0] for pair in expected], atol=1e-4)
    np.testing.assert_array_equal(target.numpy(), cubes)
