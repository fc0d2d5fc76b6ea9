"""Where preprocessed cases lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cases.plan import PLAN_FILE, Plan, PlanError
from cases.settings import Settings, setting

CONTAINER_DATA = Path("/data")


def preprocessed_folder(data: Path, task: str | None, dim: int, part: str = "", *, below: bool = False) -> Path:
    """Where the cases lie: ``/data/<task>_<dim>d/<part>`` while --data is left at /data, else --data itself.

    ``below`` finds the task's folder below any --data.
    """
    below = below or data == CONTAINER_DATA
    return data / f"{task.zfill(2)}_{dim}d" / part if below and task else data


@dataclass(frozen=True, kw_only=True)
class FolderSettings(Settings):
    """The preprocessed folder."""

    data: Path = setting(
        CONTAINER_DATA,
        "preprocessed folder; left at /data it is /data/<task>_<dim>d (predict: its test/)",
        kept=False,
    )
    task: str | None = setting(None, "task number; the Decathlon has 01 to 10", kept=False)
    dim: Literal[2, 3] = setting(3, "dimensions of the network")

    def folder(self, part: str = "") -> Path:
        """The folder of training cases, or its ``part`` (val, test) where --data is left alone."""
        return preprocessed_folder(self.data, self.task, self.dim, part)

    def plan(self, part: str = "") -> Plan:
        """The folder's plan.

        Raises:
            PlanError: without one; where --data names the folder above, the message names the folder itself.
        """
        folder = self.folder(part)
        if self.task is not None and folder == self.data and not (folder / PLAN_FILE).is_file():
            meant = preprocessed_folder(folder, self.task, self.dim, below=True)
            give = f"give --data {meant}" if (meant / PLAN_FILE).is_file() else "run preprocess.py first"
            raise PlanError(
                f"{folder / PLAN_FILE} does not exist: --data names the preprocessed folder itself, and --task plays "
                f"no part in finding it once --data is given; {give}"
            )
        return Plan.load(folder)
