"""Classes of scans, read from a table and carried by their patches."""

import numpy as np
import pytest
import torch

from data_loading.augmentation.pipeline import Augmentation
from data_loading.classes import class_loader
from data_loading.module import LoaderSettings
from data_loading.sources.classes import ClassTable, ClassTableError, read_classes

CASES = [f"case_{i:02d}" for i in range(4)]


def table_file(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_one_class_a_scan(tmp_path):
    path = table_file(tmp_path, "case,label\ncase_01,MRI\ncase_00,CT\nother,CT\n")
    table = read_classes(path, CASES, "ce")
    assert table.names == ("CT", "MRI")
    assert {case: target.tolist() for case, target in table.targets.items()} == {"case_01": [1.0], "case_00": [0.0]}


def test_several_labels_a_scan(tmp_path):
    path = table_file(tmp_path, "case,effusion,nodule\ncase_01,1,0\ncase_02,1,1\n")
    table = read_classes(path, CASES, "bce")
    assert table.names == ("effusion", "nodule")
    assert table.targets["case_01"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", "ce", "has 0 columns"),
        ("case,a,b\ncase_01,1,0\n", "ce", "several labels a scan need --loss bce"),
        ("case,a\ncase_01,yes\n", "bce", "line 2: 1 labels 0 or 1 wanted"),
        ("case,label\ncase_01,CT\ncase_01,CT\n", "ce", "line 3: case_01 has a line already"),
        ("case,label\nscan,CT\n", "ce", "names none of the 4 cases, such as case_00"),
        ("case,label\ncase_01,CT\ncase_02,CT\n", "ce", "has one class, CT"),
    ],
)
def test_tables_that_do_not_fit_are_named(tmp_path, text, kind, message):
    with pytest.raises(ClassTableError, match=message):
        read_classes(table_file(tmp_path, text), CASES, kind)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ClassTableError, match=r"nowhere.csv cannot be read"):
        read_classes(tmp_path / "nowhere.csv", CASES, "ce")


def test_a_patch_carries_its_scans_class(make_folder):
    folder, plan, cases = make_folder(4, labelled=False, image=lambda i: np.full((1, 12, 16, 20), i, np.float32))
    table = ClassTable(names=("a", "b"), targets={case: np.array([i], np.float32) for i, case in enumerate(cases)})
    settings = LoaderSettings(batch_size=2, num_workers=0)
    with class_loader(folder, plan, cases, table, settings, Augmentation()) as loader:
        seen = list(loader)
    assert [len(batch["target"]) for batch in seen] == [2, 2]
    values = torch.cat([batch["image"].flatten(1).mean(1) for batch in seen])
    torch.testing.assert_close(values, torch.cat([batch["target"][:, 0] for batch in seen]))
    assert sorted(values.tolist()) == [0, 1, 2, 3]
