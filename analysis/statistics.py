"""Means over seeds, pictures and steps. Methods are compared by `analysis.inference`, in which the seed is the unit."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Estimate:
    """A mean and how well it is known."""

    mean: float
    error: float
    """Standard error of the mean; nan for fewer than two values."""
    count: int


def estimate(values: "pd.Series[float]") -> Estimate:
    """Mean and standard error of independent values."""
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()) if count else math.nan, error, count)


def paired_difference(ours: "pd.Series[float]", theirs: "pd.Series[float]") -> Estimate:
    """Mean of the differences on the pictures that both scored; both are indexed by picture."""
    common = ours.index.intersection(theirs.index)
    return estimate(ours.loc[common] - theirs.loc[common])


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
