"""Means and their uncertainty. Cells are compared picture by picture, because all see the same noise on a picture."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Verdict = Literal["above", "below", "undecided"]

STANDARD_ERRORS = 2.0
"""A mean counts as different from zero if it is farther from it than this many standard errors."""


@dataclass(frozen=True)
class Estimate:
    """A mean and how well it is known."""

    mean: float
    error: float
    """Standard error of the mean; nan for fewer than two values."""
    count: int

    @property
    def verdict(self) -> Verdict:
        """On which side of zero the mean is, if it can be told."""
        if not self.count or not abs(self.mean) > STANDARD_ERRORS * self.error:
            return "undecided"
        return "above" if self.mean > 0 else "below"

    def __str__(self) -> str:
        """`+0.52 ± 0.08`."""
        error = "" if math.isnan(self.error) else f" ± {self.error:.2f}"
        return f"{self.mean:+.2f}{error}"


def estimate(values: "pd.Series[float]") -> Estimate:
    """Mean and standard error of independent values."""
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()) if count else math.nan, error, count)


def paired_difference(ours: "pd.Series[float]", theirs: "pd.Series[float]") -> Estimate:
    """Mean of the differences on the pictures that both scored; both are indexed by picture."""
    common = ours.index.intersection(theirs.index)
    return estimate(ours.loc[common] - theirs.loc[common])


def by_picture(seeds: Sequence[pd.DataFrame], column: str) -> "pd.Series[float]":
    """One value per picture: the mean over seeds, each of which is a frame indexed by picture."""
    if not seeds:
        return pd.Series(dtype=float)
    together: pd.Series[float] = pd.concat([seed[column] for seed in seeds])
    return together.groupby(level=0).mean() if len(seeds) > 1 else together


def over_seeds(seeds: Sequence[pd.DataFrame], column: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of each seed's mean over pictures; the latter is nan for one seed."""
    means = [float(seed[column].mean()) for seed in seeds]
    if not means:
        return math.nan, math.nan
    return statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else math.nan


def summary(values: "pd.Series[float]", name: str) -> dict[str, float]:
    """Mean, median, 90th percentile and maximum under the keys `name_...`; nan if there are no values."""
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_median": float(values.median()),
        f"{name}_p90": float(values.quantile(0.9)),
        f"{name}_max": float(values.max()),
    }
