"""Pre-train, train, evaluate and predict: from unlabelled scans to label maps in each scan's own geometry."""

from __future__ import annotations

from collections.abc import Sequence

from settings import MainSettings, parse, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything succeeded."""
    settings = parse(MainSettings, argv, __doc__ or "")
    # Imported here: the loader's workers import this file anew, and need none of PyTorch, Lightning and MONAI.
    from cli.modes import run

    return run(settings)


if __name__ == "__main__":
    run_command(main)
