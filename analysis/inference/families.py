"""Families of contrasts: corrects p-values so that the chance of any false alarm in a family is limited."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.inference.contrasts import Contrast


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Adjust p-values (Holm 1979); returns them in the given order, (n,).

    The k-th smallest of n is multiplied by n - k + 1, then raised to at least the previous one and limited to 1.

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    given = np.asarray(p_values, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"not all in [0, 1]: {given}")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return adjusted


def with_holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Adjust the p-values of contrasts; those above 1 - level turn "better" and "worse" into "undecided".

    Means, intervals and the verdict "equivalent" remain those of each contrast alone.
    """
    adjusted = holm([contrast.p_value for contrast in contrasts])
    return [_adjusted(contrast, float(p)) for contrast, p in zip(contrasts, adjusted, strict=True)]


def _adjusted(contrast: Contrast, p_value: float) -> Contrast:
    lost = contrast.verdict in ("better", "worse") and p_value > 1 - contrast.level
    return dataclasses.replace(contrast, p_value=p_value, verdict="undecided" if lost else contrast.verdict)
