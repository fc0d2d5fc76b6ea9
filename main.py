"""Pre-train, train, evaluate and predict: from unlabelled scans to label maps in each scan's own geometry."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 where everything succeeded."""
    # Imported here: the loader's workers import this file anew, and need none of PyTorch, Lightning and MONAI.
    from cli.modes import run

    return run(argv)


if __name__ == "__main__":
    from cli.run import run_command

    run_command(main)
