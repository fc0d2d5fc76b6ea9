"""Compare predictions with true labels: Dice, IoU, HD95 and surface Dice as a table, metrics.json and pictures.

A class that is in neither map of a case is left out of its means (null in metrics.json); one that is
in one map alone has Dice, IoU and surface Dice 0, and the scan's diagonal as HD95.
"""

from __future__ import annotations

from collections.abc import Sequence

from cli.compose import parse
from cli.run import run_command
from inference.evaluation import EvaluateSettings, evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where some prediction could not be compared."""
    return evaluate(parse((EvaluateSettings,), argv, __doc__ or "")[EvaluateSettings])


if __name__ == "__main__":
    run_command(main)
