"""Scans to preprocessed cases: ``python preprocess.py --data D --results R --task 04 --dim 3``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where something could not be done."""
    from cli.preprocess import PROGRAM  # here, as in main.py: worker processes import this file anew

    mode, given = PROGRAM.parse(argv)
    try:
        return mode.run(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    from cli.run import run_command

    run_command(main)
