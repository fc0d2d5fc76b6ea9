"""The modes of preprocess.py."""

from dataclasses import fields

from cli.preprocess import MODES


def test_no_two_groups_of_a_mode_share_a_flag():
    for mode, (groups, _) in MODES.items():
        names = [entry.name for group in groups for entry in fields(group)]
        assert len(names) == len(set(names)), mode
