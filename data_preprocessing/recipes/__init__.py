"""Recipes: a chain from a scan to a case; one file a recipe.

A new recipe is a file beside these and a line in ``RECIPES``; a user's own is named by ``--recipe``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cases.plan import Plan, PlanError
from cases.registry import Registry, absolute, is_own
from cases.settings import Settings, setting
from data_preprocessing.normalizations import NORMALIZATIONS, scheme_of
from data_preprocessing.recipes.recipe import PreparedCase, RawScan, Recipe

__all__ = ["RECIPES", "OwnSettings", "PreparedCase", "RawScan", "Recipe", "RecipeSettings", "recipe_of"]

RECIPES: Registry[type[Recipe]] = Registry(
    "recipe",
    {
        "default": "data_preprocessing.recipes.default:Default",
        "medicalnet": "data_preprocessing.recipes.medicalnet:MedicalNet",
    },
    needs=("depth_first", "faults", "planned", "describe", "prepare"),
)


@dataclass(frozen=True, kw_only=True)
class RecipeSettings(Settings):
    """From scan to case."""

    error: ClassVar[type[ValueError]] = PlanError

    recipe: str = setting(
        "default",
        "the chain of preprocessing: default, nnU-Net's; medicalnet, as published, for NIfTI files that hold the "
        "depth first; or an own one as module:object or file.py:object",
        variants=RECIPES,
    )
    normalization: tuple[str, ...] | None = setting(
        None,
        "of all channels, or one for each: ct, by the dataset's Hounsfield units; zscore, by the scan's mean and "
        "deviation; rescale, to 0..1; none; or an own one as module:object or file.py:object. None: ct for CT, else "
        "zscore",
        flags=("--normalize",),
        variants=NORMALIZATIONS,
    )

    @property
    def own(self) -> tuple[str, ...]:
        """Own objects that it names, from any working directory."""
        return own_names(self.recipe, *self.normalization or ())


@dataclass(frozen=True, kw_only=True)
class OwnSettings(Settings):
    """Own preprocessing of a checkpoint's plan, which does not run by itself."""

    error: ClassVar[type[ValueError]] = PlanError

    recipe: str | None = setting(
        None, "the own recipe that the plan names, as file.py:object", variants=RECIPES, kept=False
    )
    normalization: tuple[str, ...] | None = setting(
        None,
        "the own normalisations that the plan names, as file.py:object",
        flags=("--normalize",),
        variants=NORMALIZATIONS,
        kept=False,
    )

    @property
    def own(self) -> tuple[str, ...]:
        """Own objects that it names, from any working directory."""
        return own_names(self.recipe, *self.normalization or ())


def own_names(*names: str | None) -> tuple[str, ...]:
    """Those of users' own objects, from any working directory."""
    return tuple(absolute(name) for name in names if name is not None and is_own(name))


def recipe_of(plan: Plan, own: Sequence[str] = ()) -> Recipe:
    """What the plan names, after a look at the normalisations that it names too.

    Args:
        plan: of the dataset.
        own: the command line's own recipes and normalisations; the plan alone does not make one run.

    Raises:
        PlanError: where the plan has settings that the recipe does not do, or a normalisation lacks numbers.
        RegistryError: for a name that is in no table.
    """
    recipe: Recipe = RECIPES.make(RECIPES.stored(plan.recipe, own))
    if faults := recipe.faults(dim=plan.dim, ohe=plan.ohe, resample=plan.resample, crop=plan.crop):
        raise PlanError("plan: " + "; ".join(faults))
    for how in plan.normalization:
        scheme_of(how, own)
    return recipe
