"""Throughput and latency of each part of the program; flags of main.py follow after ``--``.

python scripts/benchmark.py --mode train
python scripts/benchmark.py --mode loader --patch_size 128 128 128 --volume 200 362 362
python scripts/benchmark.py --against HEAD~1

train and predict run main.py --benchmark twice, with the loader and with a constant batch on the device, whose
ratio is the loader's efficiency. Without --data, each mode makes up data in a temporary folder. On a GPU these have the
sizes that the goals name, those of the Decathlon's task 01 as NVIDIA's nnU-Net measures it: 128x128x128, four channels,
four classes, batch 2, mixed precision, no deep supervision. On a CPU they are small. Results: DLLogger lines in
--results/--logname, and benchmark_<mode>.json with machine, versions, settings and numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.against import gate
from benchmarks.measure import MeasureSettings, run
from benchmarks.record import write_record
from cases.settings import as_json
from cli.compose import parse
from cli.launch import split_at_dashes
from cli.run import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where main.py failed or a part has become slower than --max_regression lets."""
    own, extra = split_at_dashes(sys.argv[1:] if argv is None else argv)
    settings = parse((MeasureSettings,), own, (__doc__ or "").split("\n")[0])[MeasureSettings]
    if settings.against is not None:
        return gate(settings.gate)
    settings = settings.settled
    results = run(settings, extra)
    write_record(settings.results / f"benchmark_{settings.mode}.json", as_json(settings) | {"flags": extra}, results)
    return 0


if __name__ == "__main__":
    run_command(main)
