"""The modes of main.py, and the flags that choose among them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cases.settings import Given, Settings, SettingsError, setting
from cli import benchmark, evaluate, predict, pretrain, train, vectors
from cli.compose import Program
from cli.mode import Mode
from cli.presets import PRESETS
from pretraining.genesis.sampling import assignments

PARTS = (pretrain, train, evaluate, predict, vectors, benchmark)
MODES: tuple[Mode, ...] = tuple(mode for part in PARTS for mode in part.MODES)


@dataclass(frozen=True, kw_only=True)
class ModeSettings(Settings):
    """What to run."""

    exec_mode: Literal["pretrain", "train", "evaluate", "predict", "features"] = setting("train", "what to run")
    kind: Literal["segmentation", "classification"] = setting("segmentation", "what to train, evaluate or predict")
    benchmark: bool = setting(False, "measure throughput and latency instead of learning or predicting", kept=False)
    preset: (
        Literal[
            "models_genesis",
            "genesis_nnunet",
            "semantic_autoencoder",
            "semantic_genesis",
            "medicalnet",
            "medicalnet_conv_seg",
        ]
        | None
    ) = setting(
        None,
        "published settings of a pre-training, or of MedicalNet's fine-tuning; flags and --config win over them",
        kept=False,
    )
    config: Path | None = setting(None, "TOML or JSON file with settings; flags win over it", kept=False)


def choose(values: Mapping[str, Any]) -> Mode:
    """The mode of these values of ModeSettings. Raises SettingsError for a combination that there is not."""
    mode, kind, preset = values["exec_mode"], values["kind"], values["preset"]
    if preset is not None and (meant := PRESETS[preset]["exec_mode"]) != mode:
        raise SettingsError(f"--preset {preset} is for --exec_mode {meant}")
    if kind == "classification" and mode not in ("train", "evaluate", "predict"):
        raise SettingsError(f"--kind classification is for --exec_mode train, evaluate and predict, not {mode}")
    if values["benchmark"] and (kind == "classification" or mode not in ("train", "predict")):
        raise SettingsError("--benchmark is for a segmentation's --exec_mode train and predict")
    wanted = {name: values[name] for name in ("exec_mode", "kind", "benchmark")}
    return next(found for found in MODES if found.chosen_by == wanted)


def rewrite(argv: Sequence[str]) -> list[str]:
    """``--genesis name=value ...``, as earlier versions had it, to ``--name value ...``."""
    out: list[str] = []
    texts = list(argv)
    while texts:
        text = texts.pop(0)
        if text != "--genesis":
            out.append(text)
            continue
        given: list[str] = []
        while texts and not texts[0].startswith("-"):
            given.append(texts.pop(0))
        for name, value in assignments(given).items():
            out += _as_flag(name, value)
    return out


def _as_flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]


PROGRAM = Program(
    description="Pre-train, train, evaluate and predict: from scans to label maps in each scan's own geometry.",
    modes=MODES,
    selectors=(ModeSettings,),
    choose=choose,
    presets=PRESETS,
    rewrite=rewrite,
)


def run(argv: Sequence[str] | None = None) -> int:
    """Run main.py's command line; 0 where everything succeeded."""
    mode, given = PROGRAM.parse(argv)
    for library in ("pytorch_lightning", "lightning_fabric"):  # its tips and device lists tell users nothing
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return mode.run(given)


def parse_main(argv: Sequence[str] | None = None) -> Given:
    """The settings that main.py would run with."""
    return PROGRAM.parse(argv)[1]
