"""Write docs/commands.md, the reference of every flag, from the settings that the programs read.

    python docs/generate_commands.py

A test compares the file with what this would write.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.compose import Program

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PAGE = Path(__file__).with_name("commands.md")
INTRODUCTION = """# Command reference

Made from the settings by `python docs/generate_commands.py`; do not edit it. `--help` behind a command shows the same.

- A switch has a negative form, such as `--no-save_ckpt`.
- The name above each table is the group's name in a `--config` file.
- `module:object` and `file.py:object` name [your own variant](extending.md).
"""


def programs() -> dict[str, Program]:
    """Every program that takes flags, by the file that starts it."""
    from benchmarks.measure import MeasureSettings
    from cli import modes, preprocess
    from cli.compose import Program
    from cli.download import DownloadSettings
    from cli.mode import Mode
    from inference.evaluation import EvaluateSettings
    from scripts.export import ExportSettings
    from scripts.fit_postprocessing import FitSettings
    from scripts.inference import InferenceScriptSettings
    from scripts.semantic_genesis import ChainSettings
    from scripts.train import TrainScriptSettings
    from scripts.transfer_experiment import TransferExperimentSettings

    single = {
        "evaluate.py": EvaluateSettings,
        "download.py": DownloadSettings,
        "scripts/train.py": TrainScriptSettings,
        "scripts/inference.py": InferenceScriptSettings,
        "scripts/semantic_genesis.py": ChainSettings,
        "scripts/transfer_experiment.py": TransferExperimentSettings,
        "scripts/export.py": ExportSettings,
        "scripts/fit_postprocessing.py": FitSettings,
        "scripts/benchmark.py": MeasureSettings,
    }
    several = {"main.py": modes.PROGRAM, "preprocess.py": preprocess.PROGRAM}
    return several | {name: Program(description="", modes=(Mode(groups=(kind,)),)) for name, kind in single.items()}


def reference() -> str:
    """Every program with its flags, in Markdown."""
    from cli.help import reference as program

    return "\n".join(program(name, made.modes, made.selectors) for name, made in programs().items())


def without_html(markdown: str) -> str:
    """With ``<task>`` and its like as text, where it does not stand in code."""
    pieces = markdown.split("`")
    pieces[::2] = [piece.replace("<", "&lt;").replace("*", "\\*") for piece in pieces[::2]]
    return "`".join(pieces)


def page() -> str:
    """The whole page."""
    return f"{INTRODUCTION}\n{without_html(reference()).rstrip()}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} written")
