"""The settings of the transformations, as flags and as --genesis name=value."""

from dataclasses import fields

import pytest

from pretraining.genesis.sampling import FOUR, GenesisError, GenesisSettings, assignments
from pretraining.semantic.transformations import SemanticTransformations


def made(methods, texts):
    return GenesisSettings(transformations=tuple(methods), **assignments(texts))


def test_genesis_settings_come_from_methods_and_assignments():
    settings = made(["shuffle"], ["shuffle_probability=0.3", "percentiles=[1,99]", "per_channel=true"])
    assert settings.transformations == ("shuffle",)
    assert settings.shuffle_probability == 0.3
    assert settings.percentiles == (1, 99)
    assert settings.per_channel is True


@pytest.mark.parametrize(
    ("methods", "assignment", "message"),
    [
        (["shuffle"], "shuffel=1", "shuffel is none of"),
        (["shuffle"], "margin=three", "a value as in JSON"),
        (["shuffle"], "paint_probability=7", r"paint_probability 7 is not in \[0, 1\]"),
        (["shuffle"], 'margin="a"', "--genesis margin"),
        (["blur"], "margin=3", "blur is not a method"),
    ],
)
def test_wrong_genesis_settings_are_named(methods, assignment, message):
    with pytest.raises(GenesisError, match=message):
        made(methods, [assignment])


def test_semantic_transformations_differ_where_they_were_published_so():
    settings = SemanticTransformations()
    changed = {e.name for e in fields(settings) if getattr(settings, e.name) != getattr(GenesisSettings(), e.name)}
    assert changed == {
        "transformations",
        "exclusive",
        "shuffle_windows",
        "inpaint_blocks",
        "outpaint_blocks",
        "continue_probability",
    }
    assert settings.transformations == ("elastic", *FOUR)
    assert all(e.metadata["help"] for e in fields(settings))
    assert assignments(["shuffle_windows=7"], SemanticTransformations) == {"shuffle_windows": 7}


@pytest.mark.parametrize(
    "values",
    [{"percentiles": (99, 1)}, {"percentiles": (1,)}, {"inpaint_divisors": (3, 6)}, {"outpaint_sevenths": (3, 8)}],
)
def test_ranges_are_checked(values):
    (name,) = values
    with pytest.raises(GenesisError, match=f"--{name} "):
        GenesisSettings(**values)
