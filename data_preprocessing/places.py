"""Where a dataset lies, and where its cases go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cases.settings import Settings, setting
from data_preprocessing.layouts.dataset import DatasetError
from data_preprocessing.planning.tasks import TASKS, Task, task_code, task_folder


@dataclass(frozen=True, kw_only=True)
class CasesSettings(Settings):
    """Where the preprocessed cases lie."""

    error: ClassVar[type[ValueError]] = DatasetError

    results: Path = setting(Path("/data"), "folder that holds <task>_<dim>d")
    task: str | None = setting(None, "task number; the Decathlon has 01 to 10")
    dataset: Path | None = setting(None, "the preprocessed folder itself, instead of --results and --task")

    def faults(self) -> list[str]:
        if (self.task is None) == (self.dataset is None):
            return ["give either --task (a number, below --data) or --dataset (a folder)"]
        return []

    def preprocessed(self, dim: int) -> Path:
        """The folder of preprocessed cases."""
        return self.dataset or self.results / f"{task_code(str(self.task))}_{dim}d"


@dataclass(frozen=True, kw_only=True)
class DatasetSettings(Settings):
    """Which scans, and where their cases go."""

    error: ClassVar[type[ValueError]] = DatasetError

    data: Path = setting(Path("/data"), "folder that holds the dataset's folder")
    results: Path = setting(Path("/data"), "folder in which <task>_<dim>d is made")
    task: str | None = setting(None, "task number; the Decathlon has 01 to 10")
    name: str | None = setting(None, "the dataset's folder below --data, for a task that the Decathlon has not")
    dataset: Path | None = setting(
        None, 'a dataset\'s folder, or a list of "image label" lines, instead of --data and --task'
    )

    def faults(self) -> list[str]:
        faults = []
        if (self.task is None) == (self.dataset is None):
            faults.append("give either --task (a number, below --data) or --dataset (a folder)")
        if self.name is not None and self.task is None:
            faults.append("--name names the folder of a --task")
        return faults

    @property
    def folder(self) -> Path:
        """The dataset's. Raises TaskError for a task number that leads to none."""
        return self.dataset or task_folder(self.data, str(self.task), self.name)

    @property
    def known_task(self) -> Task | None:
        """Constants of the task, where its number stands for a known one."""
        return None if self.dataset or self.name else TASKS.get(task_code(str(self.task)))

    def preprocessed_name(self, dataset: str, dim: int) -> str:
        """Name of the preprocessed folder."""
        return f"{task_code(self.task) if self.task else dataset}_{dim}d"
