"""How fast Semantic Genesis finds patterns and reads their cubes, on made-up lungs.

    python -m benchmarks.patterns --scans 300 --cubes 2000

The index (references, places, neighbours, sizes; tissue filter on) is timed from the features to the file.
Then cubes are read through the loader from the index, and, by turns, as many patches of the same size from
random places of the same scans, which is what Models Genesis reads; both corrupted as Semantic Genesis does.
Rates are cubes a second of one process with one thread; no cube is stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.made_up import made_up_plan
from cases.case import write_case
from cases.plan import Normalization, Plan
from cases.settings import Settings, above, probability, setting
from cli.compose import parse
from cli.run import run_command
from data_loading.module import LoaderSettings
from data_preprocessing.phantom import Phantom, draw
from data_preprocessing.preprocessor import prepare
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.source import CasePatches
from pretraining.loader import restoration_loader
from pretraining.semantic.files import find_patterns, index_path, write_features
from pretraining.semantic.patterns import PatternSettings
from pretraining.semantic.source import PatternPatches
from pretraining.semantic.transformations import SemanticTransformations
from pretraining.source import Patches

DRAWN = 6  # different scans; the others repeat them, for drawing takes longer than all that is measured
BATCH, ROUNDS = 20, 4


def made_up_cases(folder: Path, scans: int) -> tuple[Plan, list[str]]:
    """Preprocessed CT of lungs, and their plan."""
    hu = Normalization(scheme="ct", lower=-1000.0, upper=1000.0, mean=-300.0, std=500.0)
    plan = made_up_plan((32, 64, 64), labels=("background",), normalization=(hu,), mirror_axes=())
    phantom = Phantom(shape_dhw=(56, 120, 120), modality="CT", lungs=True)
    cases = [f"scan_{number:03d}" for number in range(scans)]
    for number in range(min(DRAWN, scans)):
        image, _, geometry = draw(phantom, number)
        for case in cases[number::DRAWN]:
            prepared = prepare(image, geometry, plan, case=case, pad=True)
            write_case(folder, prepared.info, prepared.image_cdhw)
    return plan, cases


def seconds_of(patches: Patches, plan: Plan, cubes: int) -> float:
    """Processor time of an epoch of ``cubes``, after a first batch that starts the pipeline."""
    steps = cubes // BATCH
    loading = LoaderSettings(batch_size=BATCH, num_workers=0)
    corruption = GenesisCorruption(SemanticTransformations())
    with restoration_loader(patches, plan, loading, corruption, steps=steps + 1) as loader:
        batches = iter(loader)
        next(batches)
        started = time.process_time()
        for _ in range(steps):
            next(batches)
        return time.process_time() - started


@dataclass(frozen=True, kw_only=True)
class PatternsBenchmark(Settings):
    """How much is searched, and how much is read."""

    scans: int = setting(300, "made-up scans, which the patterns are found in", check=above(0))
    cubes: int = setting(2000, "cubes that are read from the index, and from random places", check=above(0))
    tissue_max: float = setting(0.5, "largest share of soft tissue; lungs of the phantom are small", check=probability)


def main(argv: Sequence[str] | None = None) -> int:
    """Print seconds for the index and rates of reading."""
    options = parse((PatternsBenchmark,), argv, (__doc__ or "").split("\n")[0])[PatternsBenchmark]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, cases = made_up_cases(folder, options.scans)
        (folder / "features").mkdir()
        vectors = np.random.default_rng(0).normal(size=(len(cases), 512))
        write_features(folder / "features" / "features.npy", cases, vectors)
        held_out = cases[int(0.8 * len(cases)) :]
        started = time.perf_counter()
        settings = PatternSettings(tissue_max=options.tissue_max, border=(10, 10, 5), distance=2)
        patterns = find_patterns(
            folder, folder / "features" / "features.npy", held_out, settings, index_path(folder, 0), say=print
        )
        seconds = time.perf_counter() - started
        print(f"index: {len(patterns.training)} + {len(patterns.validation)} rows in {seconds:.2f} s")
        kinds: dict[str, Patches] = {
            "index": PatternPatches(folder, patterns, patterns.training, 1),
            "random places": CasePatches(folder, cases, 1),
        }
        total = dict.fromkeys(kinds, 0.0)
        for _ in range(ROUNDS):
            for kind, patches in kinds.items():
                total[kind] += seconds_of(patches, plan, options.cubes // ROUNDS)
        for kind, spent in total.items():
            print(f"{kind}: {options.cubes / spent:.0f} corrupted cubes of 64x64x32 a second")
        print(f"ratio {total['random places'] / total['index']:.2f}; {len(list(folder.rglob('*.npy')))} arrays on disk")
    return 0


if __name__ == "__main__":
    run_command(main)
