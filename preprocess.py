"""Scans to preprocessed cases: ``python preprocess.py --data D --results R --task 04 --dim 3``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli.preprocess import run_mode
from settings import PreprocessSettings, parse, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where something could not be done."""
    settings = parse(PreprocessSettings, argv, __doc__ or "")
    try:
        return run_mode(settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    run_command(main)
