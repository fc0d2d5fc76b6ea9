"""The end of every command: what a user can mend is one line, anything else keeps its traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


def run_command(main: Callable[[], int]) -> NoReturn:
    """Exit with a command's status.

    Our own errors are ValueErrors and OSErrors that name the file and the remedy. Anything else is a fault of this
    program.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt as stop:  # which may say more
        words = str(stop) or "interrupted; the same command again goes on from here (main.py: with --resume_training)"
        print(words, file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and type(error).__module__ == "builtins":
            raise
        sys.exit(f"error: {error}")
