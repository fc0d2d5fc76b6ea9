"""Run several command lines one after another in this one process, which imports PyTorch but once.

``python run_commands.py commands.json outcomes.json``, in the repository's root: the first holds a list of command
lines such as ``["main.py", "--exec_mode", "train"]``, the second gets exit status, output and errors of each.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path


def run(command: list[str]) -> dict[str, object]:
    """A program of the repository as if it were called by itself; what it exits with and what it prints."""
    output, errors = io.StringIO(), io.StringIO()
    status: object = 0
    before, sys.argv = sys.argv, command
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except Exception:  # the other commands still tell what they find
            status = traceback.format_exc()
    sys.argv = before
    return {"status": status, "output": output.getvalue(), "errors": errors.getvalue()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    commands = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    target = Path(sys.argv[2])
    target.write_text(json.dumps([run(command) for command in commands]), encoding="utf-8")
