"""Several contrasts read together: one chance of a false alarm for all."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.inference.contrasts import Contrast


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Adjusted p-values, (n,), in the order given (Holm 1979).

    The k-th smallest of n is multiplied by n - k + 1, never falls below the one before it and never exceeds 1.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"not all in [0, 1]: {given}")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return adjusted


def with_holm(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same contrasts with adjusted p-values; "better" or "worse" only where that is at most 1 - level.

    Means and intervals stay those of each contrast alone, and so does "equivalent".
    """
    adjusted = holm([contrast.p_value for contrast in contrasts])
    return [_adjusted(contrast, float(p)) for contrast, p in zip(contrasts, adjusted, strict=True)]


def _adjusted(contrast: Contrast, p_value: float) -> Contrast:
    lost = contrast.verdict in ("better", "worse") and p_value > 1 - contrast.level
    return dataclasses.replace(contrast, p_value=p_value, verdict="undecided" if lost else contrast.verdict)
