"""Compare two runs of scripts/benchmark.py, by their files benchmark_<mode>.json.

    python scripts/compare_benchmarks.py before/benchmark_train.json after/benchmark_train.json

Exit status 1 where a result of the second is worse than the first's by more than --max_regression.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.compare import compare_files, share
from cli.run import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Two files without flags before them, which is why this is no group of settings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path, help="benchmark_<mode>.json of the first run")
    parser.add_argument("after", type=Path, help="benchmark_<mode>.json of the second run")
    parser.add_argument("--max_regression", default="10%", help="such as 10%% or 0.1 (default: 10%%)")
    given = parser.parse_args(argv)
    return compare_files(given.before, given.after, share(given.max_regression))


if __name__ == "__main__":
    run_command(main)
