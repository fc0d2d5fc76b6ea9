"""Damaged files against the readers: ``python -m tests.fuzz --files 10000 --format nifti``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.run import fuzz
from tests.fuzz.samples import SAMPLES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="of each format")
    parser.add_argument("--format", choices=SAMPLES, action="append", help="all, unless named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    arguments = parser.parse_args()
    bad = 0
    for kind in arguments.format or SAMPLES:
        start = time.perf_counter()
        counts: Counter[str] = Counter()
        for number, mutated, verdict in fuzz(kind, arguments.files, arguments.seed):
            counts[verdict.kind] += 1
            if verdict.good:
                continue
            bad += 1
            print(f"{kind} {number}: {mutated.how}: {verdict.kind}: {verdict.message}", flush=True)
            for name, data in mutated.files.items() if arguments.keep else ():
                file = arguments.keep / f"{kind}_{number}" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        told = ", ".join(f"{count} {what}" for what, count in counts.most_common())
        print(f"{kind}: {arguments.files} files, seed {arguments.seed}: {told}; {time.perf_counter() - start:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
