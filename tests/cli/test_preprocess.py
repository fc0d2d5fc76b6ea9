"""The modes of preprocess.py."""

from cli.preprocess import MODES


def test_no_two_groups_of_a_mode_share_a_flag():
    for mode, (groups, _) in MODES.items():
        names = [name for group in groups for name in group.__dataclass_fields__]
        assert len(names) == len(set(names)), mode
