"""Known tasks."""

import json
from pathlib import Path

import pytest

from data_preprocessing.planning.tasks import TASKS, TaskError, task_code, task_folder

FACTS = Path(__file__).parents[4] / "shared" / "facts" / "msd_tasks.json"


def test_constants_are_the_published_ones():
    if not FACTS.is_file():
        pytest.skip(f"{FACTS} is not here")
    known = json.loads(FACTS.read_text())
    assert {code: task.folder for code, task in TASKS.items()} == known["task"]
    for code, task in TASKS.items():
        assert list(task.patch_3d) == known["patch_size"][f"{code}_3d"]
        assert list(task.spacing_mm) == known["spacings"][f"{code}_3d"]
        assert (list(task.patch_2d) if task.patch_2d else None) == known["patch_size"].get(f"{code}_2d")
        if task.ct is None:
            assert code not in known["ct_min"]
            continue
        ours = (task.ct.lower, task.ct.upper, task.ct.mean, task.ct.std)
        assert ours == tuple(known[name][code] for name in ("ct_min", "ct_max", "ct_mean", "ct_std"))


def test_folders_of_tasks(tmp_path):
    assert task_folder(tmp_path, "4", None) == tmp_path / "Task04_Hippocampus"
    assert task_folder(tmp_path, "21", "Task21_Mine") == tmp_path / "Task21_Mine"
    with pytest.raises(TaskError, match=r"0 folders in .* are named Task21_\*; name one with --name"):
        task_folder(tmp_path, "21", None)
    (tmp_path / "Task21_Mine").mkdir()
    assert task_folder(tmp_path, "21", None).name == "Task21_Mine"
    assert task_code("4") == "04"
