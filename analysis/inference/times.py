"""Times until a target is reached; runs that never reach it are censored, not left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class TimeToTarget:
    """The time at which each of several seeds first reached a target."""

    times: tuple[float, ...]
    """One per seed; inf if the seed never reached the target, so that it is censored at its budget."""
    budgets: tuple[float, ...]
    """The time at which each seed's curve ends."""

    @property
    def verdict(self) -> Literal["always", "sometimes", "never"]:
        """Whether all, some or none of the seeds reached the target."""
        reached = sum(map(math.isfinite, self.times))
        return "always" if reached == len(self.times) else "sometimes" if reached else "never"

    @property
    def median(self) -> float:
        """The time by which half of the seeds had arrived; a seed that never does counts as infinite."""
        return sorted(self.times)[(len(self.times) - 1) // 2]

    @property
    def exceeded(self) -> float:
        """The smallest budget of the seeds that never arrived, which an infinite median certainly exceeds; or inf."""
        pairs = zip(self.times, self.budgets, strict=True)
        return min((budget for time, budget in pairs if math.isinf(time)), default=math.inf)

    @property
    def at_least(self) -> tuple[float, ...]:
        """The times, with its budget in place of each that is infinite."""
        return tuple(map(min, self.times, self.budgets))


def time_to_target(curves: "Sequence[pd.Series[float]]", target: float) -> TimeToTarget:
    """The first time at which each seed's score is at least the target.

    A curve is one seed's validation score, indexed by step or by second; nan never reaches the target.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("no curve")
    ordered = [curve.sort_index() for curve in curves]
    times = (curve.index[curve >= target] for curve in ordered)
    return TimeToTarget(
        tuple(float(reached[0]) if len(reached) else math.inf for reached in times),
        tuple(float(curve.index[-1]) if len(curve) else 0.0 for curve in ordered),
    )


def performance_profile(times: pd.DataFrame) -> pd.DataFrame:
    """The share of problems that each method solves within a factor tau of the fastest (Dolan and Moré 2002).

    Each row of `times` has a problem, a method and its time, which is inf if the method never reached the target; a
    missing row means the same. The result has one column per method and one row per tau, from 1 to the largest finite
    ratio; a row holds until the next tau. A problem that no method solved counts against all of them.
    """
    table = times.pivot(index="problem", columns="method", values="time").fillna(math.inf)
    best = table.min(axis=1)
    solved = table[np.isfinite(best)]
    ratios = solved.div(best[solved.index], axis=0).mask(solved.eq(best[solved.index], axis=0), 1.0)
    factors = np.unique(np.append(ratios.to_numpy()[np.isfinite(ratios.to_numpy())], 1.0))
    shares = {method: [(ratios[method] <= tau).sum() / len(table) for tau in factors] for method in table.columns}
    return pd.DataFrame(shares, index=pd.Index(factors, name="tau")).rename_axis(columns="method")
