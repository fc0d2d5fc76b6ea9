"""The process that does the parts. It speaks JSON, an object a line, on standard input and output.

The first line in are the conditions. Then ``{"part": "loader", "limit": 90}`` is answered by ``{"row": {...}}`` for
each row, and ``{"done": true}`` or ``{"failed": "last line of the error"}``. All else that is printed goes to standard
error. The loader's processes import this module anew, so it imports nothing heavy before it serves.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import IO, Any


def last_line(error: BaseException) -> str:
    """What an error says, as far as a table has room: its kind and its last line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[-1][:200]}" if said else type(error).__name__


def serve(requests: Iterable[str], answers: IO[str]) -> None:
    """Do what is asked until nothing more is. Any error of a part is an answer; the traceback goes to the log."""
    import torch

    from benchmarks.gpu_check.conditions import Conditions
    from benchmarks.gpu_check.parts import MEASURES

    lines = iter(requests)
    conditions = Conditions.from_json(json.loads(next(lines)))
    if not conditions.gpu:
        torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    for text in lines:
        request = json.loads(text)
        try:
            for row in MEASURES.get(request["part"])(replace(conditions, limit=request["limit"])):
                answer(row=asdict(row))
        except Exception as error:  # a part may fail in any way, and costs no other one
            traceback.print_exc()
            answer(failed=last_line(error))
        else:
            answer(done=True)


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    serve(sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
