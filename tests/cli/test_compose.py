"""One command line out of groups: values, files, variants, flags that a mode does not read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from cases.registry import Registry
from cases.settings import Settings, SettingsError, above, as_json, setting
from cli.compose import Program, parse
from cli.help import mode_help, reference
from cli.mode import Mode


@dataclass(frozen=True, kw_only=True)
class SoftSettings(Settings):
    """A soft taste."""

    softness: float = setting(0.5, "how soft", check=above(0))


class Soft:
    settings = SoftSettings


class Hard:
    pass


TASTES: Registry[Any] = Registry("taste", {"soft": Soft, "hard": Hard})


@dataclass(frozen=True, kw_only=True)
class WhatSettings(Settings):
    """What to do."""

    what: Literal["bake", "eat"] = setting("bake", "what to do")
    preset: Literal["quick"] | None = setting(None, "known settings", kept=False)
    config: Path | None = setting(None, "a file", kept=False)


@dataclass(frozen=True, kw_only=True)
class BakeSettings(Settings):
    """How to bake.

    More words that no heading shows.
    """

    degrees: int = setting(200, "of the oven, 100 % of them", check=above(0))
    layers: tuple[int, ...] | None = setting(None, "of each cake", flags=("-l", "--floors"))
    span: tuple[float, float] = setting((0.0, 1.0), "from and to")
    glaze: str = setting("none", "with the bare flag: sugar", const="sugar")
    fan: bool = setting(True, "use the fan")


@dataclass(frozen=True, kw_only=True)
class EatSettings(Settings):
    """How to eat."""

    taste: str = setting("soft", "which", variants=TASTES)
    folder: Path = setting(help="where the cake is")


MODES = (
    Mode(name="--what bake", groups=(BakeSettings,), chosen_by={"what": "bake"}, help="Bake."),
    Mode(name="--what eat", groups=(EatSettings,), chosen_by={"what": "eat"}, help="Eat."),
)
PROGRAM = Program(
    description="Cakes.",
    modes=MODES,
    selectors=(WhatSettings,),
    choose=lambda values: next(mode for mode in MODES if mode.chosen_by["what"] == values["what"]),
    presets={"quick": {"what": "bake", "degrees": 250, "fan": False}},
)


def read(*argv: object) -> dict[str, Any]:
    return PROGRAM.read([str(text) for text in argv])[1].as_json()


def fault(*argv: object) -> str:
    with pytest.raises(SettingsError) as error:
        read(*argv)
    return str(error.value)


def test_flags_become_typed_values() -> None:
    values = read("--degrees", 180, "-l", 1, 2, "--span", 0.5, 2, "--glaze", "--no-fan")
    assert values == {
        "what": "bake", "preset": None, "config": None, "degrees": 180, "layers": (1, 2), "span": (0.5, 2.0),
        "glaze": "sugar", "fan": False,
    }  # fmt: skip
    assert read("--floors")["layers"] == ()
    assert read("--glaze", "nuts")["glaze"] == "nuts"


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "cake.toml"
    file.write_text("degrees = 150\n")
    assert read("--preset", "quick")["degrees"] == 250
    values = read("--preset", "quick", "--config", file)
    assert (values["degrees"], values["fan"]) == (150, False)
    assert read("--preset", "quick", "--config", file, "--degrees", 99)["degrees"] == 99


def test_a_file_holds_tables_of_groups_or_flat_names_and_may_serve_several_modes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cake.toml"
    file.write_text('glaze = "nuts"\n[bake]\ndegrees = 150\nlayers = [3, 4]\n[eat]\nfolder = "plate"\n')
    values = read("--config", file)
    assert (values["glaze"], values["degrees"], values["layers"]) == ("nuts", 150, (3, 4))
    assert capsys.readouterr().err == "note: --config: --what bake does not read folder\n"
    assert read("--what", "eat", "--config", file)["folder"] == "plate"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[bakery]\ndegrees = 1\n", "unknown table [bakery]: did you mean bake?"),
        ("degrees = 1\n[bake]\ndegrees = 2\n", "degrees stand twice"),
        ("degree = 1\n", "unknown settings degree: did you mean degrees?"),
        ("layers = 3\n", "layers = 3 does not fit --layers N ..."),
    ],
)
def test_bad_tables_are_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "cake.toml"
    file.write_text(text)
    assert message in fault("--config", file)
    assert "cake.toml" in fault("--config", file)


def test_all_faults_come_in_one_message() -> None:
    message = fault("--degrees", 0, "--degree", 3, "--taste", "soft")
    assert "--degrees 0 is not above 0" in message
    assert "unrecognized arguments: --degree: did you mean --degrees?" in message
    assert "--taste soft is not for --what bake: --taste soft is for --what eat" in message


def test_settings_of_the_variant_in_use_are_flags_and_no_others() -> None:
    assert read("--what", "eat", "--folder", "a", "--softness", 2)["softness"] == 2
    assert "softness" not in read("--what", "eat", "--folder", "a", "--taste", "hard")
    message = fault("--what", "eat", "--folder", "a", "--taste", "hard", "--softness", 2)
    assert message == "--softness is for --taste soft: it and --taste hard exclude each other"


def test_a_flag_that_is_required_is_asked_for() -> None:
    assert fault("--what", "eat") == "--what eat needs --folder"


def test_an_own_variant_brings_its_flags(tmp_path: Path) -> None:
    (tmp_path / "salty_taste.py").write_text(
        "from dataclasses import dataclass\n"
        "from cases.settings import Settings, setting\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class SaltSettings(Settings):\n"
        "    '''Salt.'''\n"
        "    salt: int = setting(1, 'grains')\n"
        "class Salty:\n"
        "    settings = SaltSettings\n"
    )
    own = f"{tmp_path}/salty_taste.py:Salty"
    assert read("--what", "eat", "--folder", "a", "--taste", own, "--salt", 3)["salt"] == 3
    assert "defines no Salt; did you mean Salty?" in fault("--what", "eat", "--folder", "a", "--taste", own[:-1])
    assert "nowhere.py does not exist" in fault("--what", "eat", "--folder", "a", "--taste", "nowhere.py:Salty")
    assert "'sfot' is none of soft, hard" in fault("--what", "eat", "--folder", "a", "--taste", "sfot")


def test_help_of_a_mode_shows_its_groups_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        PROGRAM.parse(["--what", "bake", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "bake: How to bake.\n" in shown
    assert "--fan, --no-fan" in shown
    assert "of the oven, 100 % of them (default: 200)" in shown
    assert "More words" not in shown
    assert "--taste" not in shown
    with pytest.raises(SystemExit):
        PROGRAM.parse(["--help"])
    shown = capsys.readouterr().out
    assert "--what eat" in shown
    assert "How to eat. --taste --folder" in shown


def test_help_and_reference_name_the_variants_settings() -> None:
    shown = mode_help("", MODES[1], (WhatSettings, EatSettings))
    assert "With --taste soft:" in shown
    assert "--softness X" in shown
    text = reference("cake.py", MODES, (WhatSettings,))
    assert "| `--layers`, `-l`, `--floors` `N ...` | none | of each cake |".replace("none", "None") in text
    assert "Read by `--what eat`." in text


def test_a_program_with_a_single_mode() -> None:
    given = parse((BakeSettings, EatSettings), ["--folder", "x"], "Cakes.")
    assert given[BakeSettings].degrees == 200
    assert as_json(given[EatSettings]) == {"taste": "soft", "folder": "x"}
    assert SoftSettings in given
    with pytest.raises(KeyError, match="does not read WhatSettings"):
        given[WhatSettings]
