"""Predict a preprocessed folder with a checkpoint; flags of main.py follow after ``--``.

python scripts/inference.py --data data/04_3d/val --task 04 --fold 0 --dim 3 --ckpt_path last.ckpt --tta
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases.settings import Settings, setting
from cli.compose import parse
from cli.launch import as_flags, launch, split_at_dashes, switches


@dataclass(frozen=True, kw_only=True)
class InferenceScriptSettings(Settings):
    """What to predict, and how."""

    data: Path = setting(help="preprocessed folder, such as data/04_3d/test")
    fold: int = setting(help="the fold whose cases a val/ folder gives")
    dim: Literal[2, 3] = setting(help="dimensions of the network")
    ckpt_path: Path = setting(help="checkpoint to predict with")
    task: str = setting("01", "task number; the Decathlon has 01 to 10")
    batch_size: int = setting(4, "windows predicted at once")
    amp: bool = setting(False, "mixed precision")
    tta: bool = setting(False, "average over flips")
    save_preds: bool = setting(False, "write the predictions")


def arguments(settings: InferenceScriptSettings) -> list[str]:
    """``main.py``'s arguments."""
    values = {
        "exec_mode": "predict",
        "data": settings.data,
        "task": settings.task,
        "fold": settings.fold,
        "dim": settings.dim,
        "ckpt_path": settings.ckpt_path,
        "val_batch_size": settings.batch_size,
    }
    return [*as_flags(values), *switches(settings, ("amp", "tta", "save_preds"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of ``main.py``. A flag after ``--`` wins over the same flag before it."""
    own, extra = split_at_dashes(sys.argv[1:] if argv is None else argv)
    given = parse((InferenceScriptSettings,), own, "Predict a preprocessed folder; main.py's flags follow after --.")
    return launch([*arguments(given[InferenceScriptSettings]), *extra])


if __name__ == "__main__":
    sys.exit(main())
