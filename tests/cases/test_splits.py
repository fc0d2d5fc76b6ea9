"""Folds."""

import pytest

from cases.splits import FoldSettings, SplitError, TrainingFoldSettings, draw_cases, fold_cases, split


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
