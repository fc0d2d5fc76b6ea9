"""Where datasets and their cases lie, and what the groups of preprocess.py refuse."""

from dataclasses import fields
from pathlib import Path

import pytest

from cases.plan import PlanError
from data_preprocessing.commands import GROUPS, PreprocessSettings
from data_preprocessing.layouts import DatasetError
from data_preprocessing.places import CasesSettings, DatasetSettings
from data_preprocessing.planning.making import PlanSettings
from data_preprocessing.planning.tasks import TASKS
from data_preprocessing.preprocessor import PrepareError


def test_tasks_and_datasets_lead_to_folders(tmp_path):
    known = DatasetSettings(data=tmp_path, task="4")
    assert known.folder == tmp_path / "Task04_Hippocampus" and known.known_task == TASKS["04"]
    assert known.preprocessed_name("Task04_Hippocampus", 2) == "04_2d"
    mine = DatasetSettings(dataset=tmp_path / "mine")
    assert mine.folder == tmp_path / "mine" and mine.known_task is None
    assert mine.preprocessed_name("mine", 3) == "mine_3d"
    assert DatasetSettings(data=tmp_path, task="04", name="Other").known_task is None
    assert CasesSettings(results=tmp_path, task="4").preprocessed(3) == tmp_path / "04_3d"
    assert CasesSettings(dataset=tmp_path).preprocessed(3) == tmp_path


def test_faults():
    with pytest.raises(DatasetError, match=r"give either --task .* or --dataset .*; --name names the folder of a"):
        DatasetSettings(name="Other")
    with pytest.raises(DatasetError, match="give either --task"):
        CasesSettings(task="4", dataset=Path("mine"))
    with pytest.raises(PlanError, match=r"--patch_size \(8, 8\) is not 3 sides above 0, as --dim 3 asks for"):
        PlanSettings(patch_size=(8, 8))
    with pytest.raises(PlanError, match="--patch_size 8 0 8 is below 1"):
        PlanSettings(patch_size=(8, 0, 8))
    with pytest.raises(PrepareError, match="--n_jobs 0: a number of processes, or -1 for one per core"):
        PreprocessSettings(n_jobs=0)


def test_no_two_groups_share_a_flag():
    names = [entry.name for group in GROUPS for entry in fields(group)]
    assert len(names) == len(set(names))
