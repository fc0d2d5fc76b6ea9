"""From settings to a pre-training: what every method is handed."""

from __future__ import annotations

from dataclasses import fields

from cases.settings import Given
from cli.assembly import fold_cases, load_plan, network_of, optimization_of
from pretraining import METHODS
from pretraining.base import Run
from pretraining.genesis.sampling import GenesisSettings, assignments
from settings import MainSettings, as_json


def given_of(settings: MainSettings) -> Given:
    """The groups of settings that the method reads."""
    groups = []
    for kind in METHODS.settings_of(settings.method):
        values = {entry.name: getattr(settings, entry.name) for entry in fields(kind) if hasattr(settings, entry.name)}
        if issubclass(kind, GenesisSettings):
            if settings.methods is not None:
                values["transformations"] = settings.methods
            values |= assignments(settings.genesis or (), kind)
        groups.append(kind(**values))
    return Given(tuple(groups))


def run_of(settings: MainSettings) -> Run:
    return Run(
        folder=settings.folder,
        results=settings.results,
        fold=settings.fold,
        load_plan=lambda: load_plan(settings),
        load_fold=lambda: fold_cases(settings),
        network=network_of(settings),
        optimization=optimization_of(settings),
        record=as_json(settings),
    )
