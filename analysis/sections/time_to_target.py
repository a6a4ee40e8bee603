"""How long each method takes to reach a validation PSNR that is the same for all methods of a map and task."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import fmean, median_low
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from analysis.inference import Contrast, TimeToTarget, paired_contrast, performance_profile, time_to_target, with_holm
from analysis.reading import conditions
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, colours, facets, finish, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table
from analysis.sections.budgets import BUDGETS, validation_curves
from analysis.sections.comparisons import trained_by_jfb

RULE = (
    "The target of a map and task is the highest validation PSNR that more than half of its methods reach in every "
    "seed."
)
EQUAL = 0.05
"""The relative difference within which two times count as equal."""
VERDICTS = {"better": "faster", "worse": "slower", "equivalent": "equal", "undecided": "undecided"}


def _time(budget: str, label: str, spec: str, rank: int) -> Column:
    return Column(budget, f"{label}, median", spec, interval=(f"{budget}_low", f"{budget}_high"), rank=rank)


COLUMNS = (
    Column("label", "Method", rank=1),
    Column("target", "Target, dB", ".2f", rank=2),
    Column("reached", "Seeds that reached it", rank=2),
    _time("step", "Steps", ",d", rank=4),
    _time("evaluations", "Evaluations of T and products", ",.0f", rank=5),
    _time("seconds", "Seconds", ",.1f", rank=3),
    Column("over_jfb", "Seconds over jfb", ".2f", interval=("over_jfb_low", "over_jfb_high"), rank=6),
    Column("over_jfb_verdict", "Against jfb", rank=6),
)


@dataclass(frozen=True, eq=False)
class Contest:
    """The finished runs of one map and task, and the target that all of them have."""

    cells: pd.DataFrame
    curves: pd.DataFrame
    """Their validation PSNR against each budget, one row per validation."""
    target: float
    """Validation PSNR in dB."""
    undecided: str
    """Why times to the target mean nothing; empty if they do mean something."""

    @property
    def labels(self) -> str:
        """The names of the methods."""
        return ", ".join(self.cells["label"].unique())

    def times(self, cells: pd.DataFrame, budget: str) -> TimeToTarget:
        """What some of the runs had spent of a budget when they first reached the target, in the order of `cells`."""
        curves = (self.curves[self.curves["cell_id"] == cell_id] for cell_id in cells["cell_id"])
        return time_to_target([curve.set_index(budget)["psnr"] for curve in curves], self.target)


def section(data: GridData) -> Section:
    """The times to the targets, and performance profiles over maps, tasks and seeds."""
    table, figures = time_table(data), drawn(lambda: profile(data))
    return Section("Time to target", table, (), figures, " ".join(_undecided(data)))


@cache
def contests(data: GridData) -> tuple[Contest, ...]:
    """One contest per map and task, in the grid's order."""
    curves = validation_curves(data)
    return tuple(
        _contest(cells, curves[curves["cell_id"].isin(cells["cell_id"])])
        for _, cells in data.trained.groupby(["model", "protocol"], sort=False)
    )


@cache
def time_frame(data: GridData) -> pd.DataFrame:
    """One row per method of each contest that has a target; times are medians over seeds, inf if too few arrived."""
    rows, pairs = [], []
    for contest in (contest for contest in contests(data) if not contest.undecided):
        for _, cells in contest.cells.groupby("method", sort=False):
            rows.append(_row(contest, cells))
            pairs.append(_paired_with_jfb(contest, cells))
    contrasts = [None if pair is None else _contrast(*pair) for pair in pairs]
    corrected = iter(with_holm([contrast for contrast in contrasts if contrast is not None]))
    for row, pair, contrast in zip(rows, pairs, contrasts, strict=True):
        row |= {} if pair is None else _over_jfb(*pair, None if contrast is None else next(corrected))
    return pd.DataFrame(rows)


def time_table(data: GridData) -> Table:
    """The table of times to target."""
    notes = [
        f"{RULE} It depends on validation scores alone, and on all methods alike.",
        "A run arrives at its first validation at or above the target, so that times are as coarse as the validations "
        "are far apart. Seconds are the wall time of training steps, without pretraining, validation and tuning "
        "trials; they also depend on what else the machine did, which evaluations of T and products do not.",
        "A run that never arrives counts as infinite in a median. So > x says that fewer than half of the seeds "
        "arrived, and x is where the shortest run that missed the target ended. Unfinished runs are left out.",
        "Seconds over jfb is the geometric mean over seeds of the ratio of seconds, with its 95 % interval (Student's, "
        "of the logarithms). Verdicts are corrected for the number of comparisons (Holm); equal means within "
        f"{100 * EQUAL:.0f} %. If a run of either method missed the target, there is a bound at most, and the verdict "
        "is undecided; a single pair of seeds has no ratio.",
        *_undecided(data),
    ]
    caption, command = conditions.caption(data, data.trained), conditions.command(data.declared)
    return Table("time-to-target", "Time to target", time_frame(data), COLUMNS, caption, command, notes, "group")


@cache
def workloads(data: GridData) -> pd.DataFrame:
    """The seconds (`time`) that each `method` needs for each `problem`, that is, map, task and seed; inf if it missed.

    Only methods that were run on every map and task are compared, on the seeds that all of them have.
    """
    decided = [contest for contest in contests(data) if not contest.undecided]
    rows = [row for number, contest in enumerate(decided) for row in _problems(number, contest)]
    frame = pd.DataFrame(rows, columns=["contest", "seed", "problem", "method", "time"])
    everywhere = frame.groupby("method")["contest"].nunique() == len(decided)
    frame = frame[frame["method"].map(everywhere).astype(bool)]
    complete = frame.groupby("problem")["method"].transform("nunique") == frame["method"].nunique()
    return frame[complete].reset_index(drop=True)


def profile(data: GridData) -> Figure | None:
    """Performance profiles: the share of workloads that a method solves within a factor of the fastest method."""
    if _no_profile(data):
        return None
    frame = workloads(data)
    shares = performance_profile(frame[["problem", "method", "time"]])
    methods, end = frame["method"].drop_duplicates(), max(2.0, float(shares.index.max()) * 1.1)
    canvas, axes_of = facets([""])
    axes, colour_of = axes_of[""], colours(methods)
    for method in methods:
        factors, solved = [*shares.index, end], [*shares[method], shares[method].iloc[-1]]
        axes.step(factors, solved, where="post", color=colour_of[method], linewidth=1.8, alpha=0.85, label=method)
    _scale(axes, end)
    finish(canvas, axes_of, "Seconds over those of the fastest method, \N{GREEK SMALL LETTER TAU}", "Share solved")
    caption = (
        f"Share of the {frame['problem'].nunique()} workloads (map, task and seed) that a method solves, that is, "
        "reaches the target of, within \N{GREEK SMALL LETTER TAU} times the seconds of the fastest method. At 1, it "
        "is how often a method is the fastest; at the right, how often it reaches the target at all."
    )
    return render("time-to-target", "Performance profiles", caption + _left_out(data), canvas)


def _contest(cells: pd.DataFrame, curves: pd.DataFrame) -> Contest:
    best = curves.groupby("cell_id")["psnr"].max().reindex(cells["cell_id"]).fillna(-math.inf)
    start = float(curves.loc[curves["step"] == 0, "psnr"].max())
    of_methods = best.groupby(cells.set_index("cell_id")["method"]).min()
    target = float(median_low(of_methods))
    return Contest(cells, curves, target, _obstacle(len(of_methods), target, start))


def _obstacle(methods: int, target: float, start: float) -> str:
    """Why there is no target to compare methods by; empty if there is one."""
    if methods < 2:
        return "a target is set by several methods, and this map and task has one"
    if not math.isfinite(target):
        return "at least half of the methods have a seed without a finite validation PSNR"
    if target <= start:
        return f"before training some run is at {start:.2f} dB already, and too few methods reach more in every seed"
    return ""


def _row(contest: Contest, cells: pd.DataFrame) -> dict[str, Any]:
    first, times = cells.iloc[0], {budget: contest.times(cells, budget) for budget in BUDGETS}
    row = {
        "label": first["label"],
        "group": f"{first['model']} {first['protocol']}",
        "method": first["method"],
        "target": contest.target,
        "reached": f"{sum(map(math.isfinite, times['step'].times))} of {len(cells)}",
    }
    for budget, found in times.items():
        ends = (found.exceeded, math.inf) if math.isinf(found.median) else (math.nan, math.nan)
        row |= {budget: found.median, f"{budget}_low": ends[0], f"{budget}_high": ends[1]}
    return row | conditions.columns(cells)


def _paired_with_jfb(contest: Contest, cells: pd.DataFrame) -> tuple[TimeToTarget, TimeToTarget] | None:
    """The seconds of a method and of jfb on the seeds that both have; None if there is nothing to compare."""
    first = cells.iloc[0]
    jfb = trained_by_jfb(contest.cells, first).drop_duplicates("seed", keep="last")
    seeds = sorted({*cells["seed"]} & {*jfb["seed"]})
    if first["backprop"] == "jfb" or not seeds:
        return None
    ours, theirs = (of.set_index("seed").loc[seeds] for of in (cells, jfb))
    return contest.times(ours, "seconds"), contest.times(theirs, "seconds")


def _contrast(ours: TimeToTarget, theirs: TimeToTarget) -> Contrast | None:
    """The difference of the logarithms of two methods' speeds, better being faster; None if a run missed the target."""
    if ours.verdict != "always" or theirs.verdict != "always":
        return None
    speeds, others = (-np.log(found.times)[:, None] for found in (ours, theirs))
    return paired_contrast(speeds, others, margin=math.log1p(EQUAL))


def _over_jfb(ours: TimeToTarget, theirs: TimeToTarget, contrast: Contrast | None) -> dict[str, Any]:
    """The geometric mean of the seeds' ratios, with an interval; if runs missed the target, a bound at most."""
    if len(ours.times) < 2:
        ratio, low, high = math.nan, math.nan, math.nan
    elif contrast is not None:
        ratio, low, high = (math.exp(-value) for value in (contrast.mean, contrast.high, contrast.low))
    else:
        bound = math.exp(fmean(np.log(ours.at_least) - np.log(theirs.at_least)))
        above, below = theirs.verdict == "always", ours.verdict == "always"
        ratio, low, high = math.nan, bound if above else -math.inf, bound if below else math.inf
    verdict = "undecided" if contrast is None else VERDICTS[contrast.verdict]
    return {"over_jfb": ratio, "over_jfb_low": low, "over_jfb_high": high, "over_jfb_verdict": verdict}


def _undecided(data: GridData) -> list[str]:
    """One sentence for each thing that this grid cannot decide."""
    found = [f"Undecided for {one.labels}: {one.undecided}." for one in contests(data) if one.undecided]
    return [*found, *filter(None, [_no_profile(data)])] if len(time_frame(data)) else found


def _no_profile(data: GridData) -> str:
    """Why there are no performance profiles; empty if there are."""
    frame = workloads(data)
    if data.trained["seed"].nunique() < 2 or frame["seed"].nunique() == 1:
        return "Undecided which method is faster: times of one seed are those of single runs and give no profile."
    if frame["method"].nunique() < 2:
        return "No performance profile: that needs two methods that ran on every map and task, with seeds in common."
    return ""


def _problems(number: int, contest: Contest) -> Iterator[dict[str, Any]]:
    cells, times = contest.cells, contest.times(contest.cells, "seconds").times
    for method, seed, time in zip(cells["variant_in_task"], cells["seed"], times, strict=True):
        yield {"contest": number, "seed": seed, "problem": f"{number}, {seed}", "method": method, "time": time}


def _left_out(data: GridData) -> str:
    """The methods and the contests that the profiles leave out, as a sentence."""
    names = {name for one in contests(data) if not one.undecided for name in one.cells["variant_in_task"]}
    parts = {
        "not run on every map and task": ", ".join(sorted(names - {*workloads(data)["method"]})),
        "without a target": ", ".join(one.labels for one in contests(data) if one.undecided),
    }
    shown = "; ".join(f"{why}: {which}" for why, which in parts.items() if which)
    return f" Left out: {shown}." if shown else ""


def _scale(axes: Axes, end: float) -> None:
    """A logarithmic axis of factors from 1 to `end`, with ticks at powers of two."""
    axes.set_xscale("log", base=2)
    axes.set(xlim=(1, end), ylim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
