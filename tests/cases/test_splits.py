"""Folds."""

import json

import pytest

from cases.splits import FoldSettings, SplitError, TrainingFoldSettings, draw_cases, fold_cases, read_split, split


def test_folds_share_out_all_cases_whatever_their_order():
    cases = [f"case_{i:02d}" for i in range(13)]
    parts = [split(cases[::-1], 5, fold) for fold in range(5)]
    assert sorted(case for _, validation in parts for case in validation) == cases
    assert all(sorted(train + validation) == cases for train, validation in parts)
    assert split(cases, 5, 0)[1] == ["case_00", "case_07", "case_09"]  # KFold(5, shuffle, random_state=12345)


def test_impossible_folds_are_refused():
    with pytest.raises(SplitError, match=r"2 cases cannot make 5 folds; use --nfolds 2$"):
        split(["a", "b"], 5, 0)
    with pytest.raises(SplitError, match="--fold 5 is not among the 5 folds"):
        split([str(i) for i in range(9)], 5, 5)


def test_few_cases_are_drawn_by_the_seed_and_nested():
    names = [f"case_{i:02d}" for i in range(20)]
    five, ten = (draw_cases(names, n, seed=3) for n in (5, 10))
    assert len(five) == 5
    assert set(five) < set(ten) < set(names)
    assert five == draw_cases(names[::-1], 5, seed=3) == sorted(five)
    assert five != draw_cases(names, 5, seed=4)
    with pytest.raises(SplitError, match="--train_cases 21: the fold has 20 training cases"):
        draw_cases(names, 21, seed=3)


def test_a_folders_fold_is_drawn_as_its_settings_say(tmp_path):
    names = [f"case_{i:02d}" for i in range(20)]
    for name in names:
        (tmp_path / f"{name}.json").touch()
    (tmp_path / "plan.json").touch()
    whole = fold_cases(tmp_path, FoldSettings(nfolds=4, fold=1))
    assert whole == split(names, 4, 1)
    few = fold_cases(tmp_path, TrainingFoldSettings(nfolds=4, fold=1, train_cases=3), seed=7)
    assert few == (draw_cases(whole[0], 3, 7), whole[1])


def test_folds_that_are_not_there_are_one_message():
    with pytest.raises(SplitError, match=r"--nfolds 1 is below 2"):
        FoldSettings(nfolds=1)
    with pytest.raises(SplitError, match=r"--train_cases 0 is not above 0; --fold 5 is not among the 5 folds 0\.\.4"):
        TrainingFoldSettings(fold=5, train_cases=0)


def folder_of(tmp_path, *names):
    for name in (*names, "plan"):
        (tmp_path / f"{name}.json").touch()
    return tmp_path


def test_nnunets_file_gives_the_folds(tmp_path):
    folds = [{"train": ["c", "a"], "val": ["b"]}, {"train": ["b"], "val": ["c", "a"]}]
    path = tmp_path / "splits" / "splits_final.json"
    path.parent.mkdir()
    path.write_text(json.dumps(folds))
    folder = folder_of(tmp_path, "a", "b", "c", "in_no_fold")
    assert fold_cases(folder, FoldSettings(splits=(path,))) == (["a", "c"], ["b"])
    assert fold_cases(folder, FoldSettings(splits=(path,), fold=1)) == (["b"], ["a", "c"])
    few = TrainingFoldSettings(splits=(path,), train_cases=1)
    assert fold_cases(folder, few, seed=7) == (draw_cases(["a", "c"], 1, 7), ["b"])
    with pytest.raises(SplitError, match=r"--fold 2: .*splits_final.json has folds 0 to 1"):
        read_split((path,), 2)


def test_lists_of_names_or_of_image_paths_give_one_fold(tmp_path):
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("images/s2.nii.gz labels/s2.nii.gz\n\nimages/s1.nii.gz labels/s1.nii.gz\n")
    val.write_text("s3\n")
    folder = folder_of(tmp_path, "s1", "s2", "s3")
    assert fold_cases(folder, FoldSettings(splits=(train, val))) == (["s1", "s2"], ["s3"])
    with pytest.raises(SplitError, match=r"--fold 1: the lists .*train.txt and .*val.txt are of one fold"):
        read_split((train, val), 1)
    val.write_text("\n")
    with pytest.raises(SplitError, match=r"val.txt names no case"):
        read_split((train, val), 0)


def test_a_split_that_does_not_fit_its_folder_is_one_message(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a", "b", "a", "typo"], "val": ["b"]}]))
    (tmp_path / "cases").mkdir()
    folder = folder_of(tmp_path / "cases", "a", "b")
    with pytest.raises(SplitError) as caught:
        fold_cases(folder, FoldSettings(splits=(path,)))
    assert str(caught.value) == (
        f"--splits {path}: typo: no such case in {folder}; b: both to train and to validate on; a: named twice"
    )
    path.write_text(json.dumps([{"train": ["a"], "val": []}]))
    with pytest.raises(SplitError, match="a fold needs cases to train on and cases to validate on"):
        fold_cases(folder, FoldSettings(splits=(path,)))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", "a\nb\n", '[{"train": ["a"]}]', '[{"train": [1], "val": ["a"]}]', "[" * 100_000]
)
def test_what_is_no_list_of_folds_is_said(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(SplitError, match=r"splits.json is no list of folds such as"):
        read_split((path,), 0)


def test_a_split_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(SplitError, match=r"--splits .*gone.json cannot be read"):
        read_split((tmp_path / "gone.json",), 0)
    (tmp_path / "splits_final.pkl").write_bytes(b"\x80\x04\x95")
    with pytest.raises(SplitError, match=r"splits_final.pkl cannot be read as text"):
        read_split((tmp_path / "splits_final.pkl",), 0)
    with pytest.raises(SplitError, match="--splits takes one JSON file or two text files"):
        FoldSettings(splits=(tmp_path, tmp_path, tmp_path))
