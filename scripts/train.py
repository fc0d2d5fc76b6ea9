"""Train with the settings of NVIDIA's published nnU-Net runs; flags of main.py follow after ``--``.

python scripts/train.py --task 04 --fold 0 --dim 3 --amp -- --epochs 50
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases.settings import Settings, at_least, setting
from cli.compose import parse
from cli.launch import as_flags, launch, split_at_dashes, switches


@dataclass(frozen=True, kw_only=True)
class TrainScriptSettings(Settings):
    """What is set for a run; the rest is as published."""

    fold: int = setting(help="the fold that validates")
    dim: Literal[2, 3] = setting(help="dimensions of the network")
    task: str = setting("01", "task number; the Decathlon has 01 to 10")
    gpus: int | None = setting(None, "GPUs; 0 runs on the CPU; None: 1 where there is one")
    gpu_id: tuple[int, ...] | None = setting(None, "train on these GPUs, by number", check=at_least(0))
    results: Path = setting(Path("/results"), "where results go")
    logname: str | None = setting(None, "name of the DLLogger file in --results; None: logs.json")
    learning_rate: float = setting(0.0008, "peak learning rate")
    seed: int = setting(1, "seed of weights, patches and augmentation")
    amp: bool = setting(False, "mixed precision")
    tta: bool = setting(False, "average over flips in evaluation")
    resume_training: bool = setting(False, "continue a stopped run")
    bind: bool = setting(False, "give each GPU's process CPU cores of its own, next to that GPU")

    def faults(self) -> list[str]:
        ids = self.gpu_id
        if ids is None:
            return []
        faults = ["--gpu_id names a GPU twice, or none"] if len(set(ids)) != len(ids) or not ids else []
        if self.gpus not in (None, len(ids)):
            faults.append(f"--gpus {self.gpus} against {len(ids)} numbers of --gpu_id: leave --gpus out")
        return faults

    @property
    def devices(self) -> int | None:
        """How many GPUs, where it is said."""
        return self.gpus if self.gpu_id is None else len(self.gpu_id)

    @property
    def environment(self) -> dict[str, str]:
        """What shows CUDA the chosen GPUs alone."""
        return {} if self.gpu_id is None else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, self.gpu_id))}


def arguments(settings: TrainScriptSettings) -> list[str]:
    """``main.py``'s arguments: those given, and the published batch sizes, epochs and supervision."""
    several = (settings.devices or 0) > 1
    training_batch, validation_batch = (2, 1) if settings.dim == 3 else (64, 64)
    values = {
        "exec_mode": "train",
        "task": settings.task,
        "fold": settings.fold,
        "dim": settings.dim,
        "results": settings.results,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
        "batch_size": training_batch,
        "val_batch_size": validation_batch,
        "norm": "instance",
        "layout": "NDHWC" if settings.dim == 3 else "NCDHW",
        "epochs": 600 if several else 300,
        "skip_first_n_eval": 150 if several else 100,
        "affinity": "socket_unique_continuous" if settings.bind else "disabled",
    }
    if settings.devices is not None:
        values["gpus"] = settings.devices
    if settings.logname is not None:
        values["logname"] = settings.logname
    return [
        *as_flags(values),
        "--deep_supervision",
        "--save_ckpt",
        *switches(settings, ("amp", "tta", "resume_training")),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of ``main.py``. A flag after ``--`` wins over the same flag before it."""
    own, extra = split_at_dashes(sys.argv[1:] if argv is None else argv)
    given = parse((TrainScriptSettings,), own, "Train with the published settings; main.py's flags follow after --.")
    settings = given[TrainScriptSettings]
    return launch([*arguments(settings), *extra], environment=settings.environment)


if __name__ == "__main__":
    sys.exit(main())
