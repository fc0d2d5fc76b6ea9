"""Intensities to the network's scale; one file a scheme.

A new scheme is a file beside these and a line in ``NORMALIZATIONS``; a user's own is named by ``--normalization``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from cases.case import Intensity
from cases.plan import Normalization, PlanError
from cases.registry import Registry, is_own
from data_preprocessing.normalizations.scheme import Scheme

SAMPLE = 1_000_000  # voxels behind the percentiles of a channel: enough for three digits of the 0.5th
PERCENTILES = (0.5, 99.5)

NORMALIZATIONS: Registry[type[Scheme]] = Registry(
    "normalization",
    {
        "ct": "data_preprocessing.normalizations.ct:Ct",
        "zscore": "data_preprocessing.normalizations.zscore:Zscore",
        "rescale": "data_preprocessing.normalizations.rescale:Rescale",
        "none": "data_preprocessing.normalizations.unchanged:Unchanged",
    },
    needs=("statistics", "keeps_zero", "normalize"),
)


def scheme_of(how: Normalization, own: Sequence[str] = ()) -> Scheme:
    """What the plan names.

    Args:
        how: of the plan.
        own: the command line's own schemes; the plan alone does not make one run.

    Raises:
        PlanError: where the plan lacks numbers that it needs.
        RegistryError: for a name that is in no table.
    """
    scheme: Scheme = NORMALIZATIONS.make(NORMALIZATIONS.stored(how.scheme, own))
    numbers = (how.lower, how.upper, how.mean, how.std)
    if scheme.statistics and (any(number is None for number in numbers) or not how.std):
        raise PlanError(f"normalisation {how.scheme} needs lower, upper, mean and a std above 0")
    return scheme


def normalize(channel_dhw: np.ndarray, how: Normalization, own: Sequence[str] = ()) -> tuple[np.ndarray, Intensity]:
    """One channel by the plan's rule.

    Args:
        channel_dhw: in the scan's units.
        how, own: see :func:`scheme_of`.

    Returns:
        float32, a new array; its way back and its range.

    Raises:
        PlanError: for an own scheme that fails, or returns something else.
    """
    scheme = scheme_of(how, own)
    run = _by_own(scheme) if is_own(how.scheme) else scheme.normalize
    values, shift, scale = run(channel_dhw, how)
    low, high = stored_range(values, keeps_zero=scheme.keeps_zero)
    return values, Intensity(shift=shift, scale=scale, low=low, high=high)


def _by_own(scheme: Scheme) -> Callable[[np.ndarray, Normalization], tuple[np.ndarray, float, float]]:
    """A user's own scheme, which may fail in any way and return anything."""

    def run(channel_dhw: np.ndarray, how: Normalization) -> tuple[np.ndarray, float, float]:
        try:
            values, shift, scale = scheme.normalize(channel_dhw, how)
            values, shift, scale = np.asarray(values, np.float32), float(shift), float(scale)
        except Exception as error:
            raise PlanError(f"--normalization {how.scheme} failed ({type(error).__name__}: {error})") from error
        if values.shape != channel_dhw.shape:
            raise PlanError(f"--normalization {how.scheme} made shape {values.shape} of {channel_dhw.shape}")
        if not np.isfinite(values).all():
            raise PlanError(f"--normalization {how.scheme} made numbers that are not finite")
        return values, shift, scale

    return run


def stored_range(channel_dhw: np.ndarray, *, keeps_zero: bool) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles of stored values, of those that are not zero where zeros are none of the scan.

    Of a large channel at most ``SAMPLE`` voxels at even steps are looked at.
    """
    step = -(-channel_dhw.size // SAMPLE)
    while math.gcd(step, channel_dhw.shape[-1]) > 1:  # or the steps keep to a few columns
        step += 1
    values = channel_dhw.reshape(-1)[::step]
    if keeps_zero:
        values = values[values != 0]
    if not len(values):
        return 0.0, 0.0
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)
