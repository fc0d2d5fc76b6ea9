"""What DALI's workers unpickle for a pre-training brings no torch, Lightning or MONAI into them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cases.case import read_info
from data_loading.sources.sampling import PatchSampler
from pretraining.autoencoder.source import ScanPatches
from pretraining.corruption import Unchanged
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.cubes import write_cubes
from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.source import CasePatches, CubePatches
from pretraining.semantic.files import write_published
from pretraining.semantic.patterns import Extents, PatternSettings, discover
from pretraining.semantic.source import PatternPatches, PublishedPatterns
from pretraining.semantic.transformations import SemanticTransformations
from pretraining.source import RestorationSource

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "pytorch_lightning", "lightning_fabric", "monai")
WORKER = """
import pickle, sys
from types import SimpleNamespace
with open(sys.argv[1], "rb") as stream:
    source = pickle.load(stream)
arrays = source(SimpleNamespace(iteration=0, idx_in_batch=1))
print(len(arrays), *(name for name in sys.argv[2:] if name in sys.modules))
"""
PATCH = (4, 6, 8)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Patches of every method, and how they are corrupted."""
    from tests.conftest import put_case

    folder = tmp_path_factory.mktemp("cases")
    names = [f"case_{i}" for i in range(6)]
    for i, name in enumerate(names):
        put_case(folder, name, np.random.default_rng(i).uniform(-2, 2, (1, 12, 16, 20)).astype(np.float32))
    settings = PatternSettings(cube_size=(8, 6, 4), classes=2, instances=2, border=(1, 1, 1), tissue_filter=False)
    extents = Extents.of([read_info(folder, name) for name in names])
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    patterns = discover(names, vectors, extents, names[4:], settings, say=lambda line: None)
    write_published(folder, patterns, folder / "published", 0, say=lambda line: None)
    write_cubes(folder / "bat_3_s_8x6x4_0.npy", np.random.default_rng(1).random((3, 8, 6, 4), dtype=np.float32))
    genesis, semantic = GenesisCorruption(GenesisSettings()), GenesisCorruption(SemanticTransformations())
    return {
        "genesis": (CasePatches(folder, names, 1), genesis),
        "cubes": (CubePatches(folder, (0,)), genesis),
        "patterns": (PatternPatches(folder, patterns, patterns.training, 1), semantic),
        "published": (PublishedPatterns(folder / "published", "train", 0), semantic),
        "autoencoder": (ScanPatches(folder, names, 1), Unchanged()),
    }


@pytest.mark.parametrize("corrupts", [True, False])
@pytest.mark.parametrize("kind", ["genesis", "cubes", "patterns", "published", "autoencoder"])
def test_a_worker_stays_light(patches, tmp_path, kind, corrupts):
    entries, corruption = patches[kind]
    sampler = PatchSampler(seed=1, n_cases=len(entries), batch_size=2, steps_per_epoch=1, patch_dhw=PATCH)
    source = RestorationSource(patches=entries, sampler=sampler, corruption=corruption, corrupts=corrupts)
    path = tmp_path / "source"
    path.write_bytes(pickle.dumps(source))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, str(path), *HEAVY]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    count, *heavy = done.stdout.split()
    assert heavy == []
    drawn = 1 if corrupts else len(corruption.drawn)
    assert int(count) == 1 + drawn + (kind in ("patterns", "published"))
