"""What reading processes cost: start-up time, memory and loaded modules of DALI's workers, for each source.

``python -m benchmarks.workers`` starts eight of them for each source. A worker imports the program's main module anew,
so this one, like main.py, imports nothing heavy before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

if TYPE_CHECKING:
    from data_loading.sources.source import SampleInfo, Source

HEAVY = ("torch", "lightning", "lightning_fabric", "pytorch_lightning", "monai")  # what no worker needs


@dataclass(frozen=True)
class Probe:
    """A source that answers with what its process has loaded and holds, after one call of the source within."""

    source: Source

    def __call__(self, info: SampleInfo) -> tuple[np.ndarray, ...]:
        self.source(info)
        fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        answer = {
            "pid": os.getpid(),
            "modules": sorted(sys.modules),
            "cpu_seconds": time.process_time(),
            "rss_mib": int(fields["Rss"].split()[0]) / 1024,
            "pss_mib": int(fields["Pss"].split()[0]) / 1024,
        }
        return (np.frombuffer(json.dumps(answer).encode(), np.uint8),)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Workers of one source.

    Attributes:
        seconds: from their start to the first batch, to which each gave a sample.
        cpu_seconds: mean of a worker, from its start to its sample; unlike the former, no other load adds to it.
        rss_mib: mean resident memory of a worker.
        pss_mib: memory of all together, shared pages counted once.
        modules: loaded in any of them.
    """

    seconds: float
    cpu_seconds: float
    rss_mib: float
    pss_mib: float
    modules: frozenset[str]

    @property
    def heavy(self) -> list[str]:
        """The packages among their modules that no worker needs."""
        return sorted({name.split(".")[0] for name in self.modules} & set(HEAVY))


def start_workers(source: Source, count: int) -> Workers:
    """Start ``count`` of DALI's workers with this source and look at them after a sample each."""

    @pipeline_def
    def pipeline() -> tuple[Any, ...]:
        byte = types.DALIDataType.UINT8
        return tuple(
            fn.external_source(source=Probe(source), num_outputs=1, batch=False, parallel=True, dtype=[byte], ndim=[1])
        )

    begin = time.perf_counter()
    running = pipeline(batch_size=count, num_threads=1, device_id=None, py_num_workers=count, py_start_method="spawn")
    running.build()
    (output,) = running.run()
    seconds = time.perf_counter() - begin
    answers = [json.loads(bytes(np.asarray(output.at(index)))) for index in range(count)]
    by_process = {answer["pid"]: answer for answer in answers}
    return Workers(
        seconds=seconds,
        cpu_seconds=float(np.mean([answer["cpu_seconds"] for answer in by_process.values()])),
        rss_mib=float(np.mean([answer["rss_mib"] for answer in by_process.values()])),
        pss_mib=sum(answer["pss_mib"] for answer in by_process.values()),
        modules=frozenset(name for answer in answers for name in answer["modules"]),
    )


def sources(folder: Path) -> Mapping[str, Source]:
    """A source of each kind, over cases that are made in ``folder``; each patch takes every effect."""
    from benchmarks.made_up import made_up_plan, make_cases  # torch comes in with these: see the module
    from cases.case import list_cases
    from data_loading.augmentation.pipeline import EFFECTS, Augmentation
    from data_loading.module import LoaderSettings, patch_source
    from data_loading.sources.classes import ClassSource

    make_cases(folder, (48, 64, 48), 2)
    plan, loading, augmentation = made_up_plan((40, 56, 40)), LoaderSettings(), Augmentation.only(*EFFECTS)
    cases = list_cases(folder)
    patches = patch_source(folder, plan, cases, loading, augmentation, compiled=True)
    boxes = patch_source(folder, plan, cases, loading, augmentation, compiled=False)
    targets = tuple(np.zeros(1, np.float32) for _ in cases)
    return {
        "segmentation": patches,
        "segmentation, for a GPU": boxes,
        "classification": ClassSource(patches=patches, targets=targets),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=8, help="reading processes (default: 8)")
    count = parser.parse_args(argv).workers
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources(Path(folder)).items():
            found = start_workers(source, count)
            print(
                f"{name}: {count} workers, {found.seconds:.1f} s to the first batch, each {found.cpu_seconds:.1f} CPU "
                f"s and {found.rss_mib:.0f} MiB resident, {found.pss_mib:.0f} MiB together, {len(found.modules)} "
                f"modules, heavy ones: {', '.join(found.heavy) or 'none'}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
