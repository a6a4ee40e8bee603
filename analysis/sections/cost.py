"""The cost of each method's gradient: time by phase in training, and memory, work and traffic from the probe."""

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure as Canvas

from analysis import statistics as stats
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.reading.rows import PHASES
from analysis.rendering.figures import WIDTH, Figure, colours, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table
from analysis.sections.accuracy import accuracy_frame
from analysis.sections.comparisons import reference_lines, trained_by_jfb
from analysis.sections.timing import timing_frame
from harness.records.events import FIRST_STEPS

NOT_INTERLEAVED = "not interleaved"
"""What a ratio of times is called that does not come from a timing cell."""
MIB = 2.0**-20
PHASE_COLOURS = ("#332288", "#88CCEE", "#DDCC77", "#44AA99", "#DDDDDD", "#882255", "#CC6677", "#AA4499")
"""Paul Tol's muted scheme: color-blind readers can distinguish it, and it differs from the colors of the methods."""
MARKERS = "osD^vPX*<>"


def _timed(phase: str, label: str) -> Column:
    keys = (f"seconds_{phase}_p90", f"seconds_{phase}_max")
    return Column(f"seconds_{phase}_median", f"{label}, ms", ",.1f", keys, joiner=" / ", scale=1e3)


COLUMNS = (
    Column("label", "Method", rank=1),
    Column("seconds_total_median", "Step, ms", ",.1f", best="min", scale=1e3, rank=1),
    Column("seconds_total_mean", "Step mean, ms", ",.1f", best="min", scale=1e3, rank=2),
    Column("seconds_total_p90", "Step p90, ms", ",.1f", scale=1e3, rank=9),
    Column("seconds_total_max", "Step max, ms", ",.1f", scale=1e3),
    Column("ratio", "Step over jfb", ".2f", interval=("ratio_low", "ratio_high"), rank=2),
    *(_timed(phase, phase.replace("_", " ").capitalize()) for phase in PHASES),
    Column("gradient_seconds", "Gradient alone, ms", ",.1f", ("gradient_seconds_iqr",), scale=1e3, rank=7),
    Column("exposed_communication", "Exposed sync, ms", ".1f", scale=1e3, rank=8),
    Column("nfe", "nfe", ".1f", best="min", rank=4),
    Column("adjoint_nfe", "Adjoint products", ".1f", rank=5),
    Column("nfe_imbalance", "nfe imbalance", ".2f"),
    Column("peak_allocated_bytes", "Peak, MiB", ".1f", best="min", scale=MIB, rank=3),
    Column("saved_bytes", "Saved, MiB", ".1f", best="min", scale=MIB, rank=6),
    Column("flops", "GFLOP", ".1f", best="min", scale=1e-9),
    Column("gradient_bytes", "Gradient, MiB", ".2f", scale=MIB),
    Column("throughput", "Images/s", ",.1f", best="max"),
    Column("timed_steps", "Timed steps", "d"),
)


@cache
def cost_frame(data: GridData) -> pd.DataFrame:
    """One row per trained method with a finished cell, in the grid's order."""
    rows = [_row(data, cells) for _, cells in data.trained.groupby("method", sort=False)]
    frame = pd.DataFrame(rows)
    if len(frame):
        frame[["ratio", "ratio_low", "ratio_high"]] = [_ratio_to_jfb(data, frame, row) for row in rows]
    return frame


def section(data: GridData) -> Section:
    """The cost of a gradient, against quality and by phase."""
    figures = drawn(lambda: cost_against_quality(data), lambda: phase_breakdown(cost_frame(data)))
    return Section("Cost of one gradient", cost_table(data), (), figures, "No trained method is finished.")


def cost_table(data: GridData) -> Table:
    """The cost table of a grid."""
    frame = cost_frame(data)
    notes = [
        "Times are the median, mean, 90th percentile and maximum over training steps, without the first "
        f"{FIRST_STEPS} steps of each attempt (or half of its steps if it made fewer than {2 * FIRST_STEPS}) and "
        "without the warm-up by jfb; phases show median / p90 / max. The time of a step is that of its slowest rank "
        "from end to end. The time of a phase is the mean over ranks; on each rank the phases, which include waiting "
        "for slower ranks, add up to the step. With a pool, some steps solve in full and most only continue: the "
        "median shows the latter, and the mean counts both.",
        "Step over jfb is the mean step time divided by that of the same model and settings trained by jfb, except "
        "that the learning rate may differ. With a 95 % interval, it comes from a timing cell, in which the methods "
        f"take turns step by step. Without one it is {NOT_INTERLEAVED}: the methods were trained at different times, "
        "so the load of the machine may have differed. Images/s is the global batch divided by the mean step time, "
        "that is, all timed samples over all timed seconds. Compare ratios, not times, between machines.",
        "Gradient alone, exposed gradient synchronization, peak, saved bytes and GFLOP come from the probe, which "
        "computes one gradient on a fixed batch; the worst rank counts. a ± b is the median and the interquartile "
        "range of its repeats. GFLOP counts one rank.",
        "nfe and adjoint products are per picture in training, averaged over the timed steps. nfe imbalance is the "
        "busiest rank over the mean of all ranks.",
    ]
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("cost", "Cost of one gradient", frame, COLUMNS, caption, command, notes)


def timed_steps(data: GridData, cells: pd.DataFrame) -> pd.DataFrame:
    """The training steps of these cells that count for timing."""
    steps = data.steps[data.steps["cell_id"].isin(cells["cell_id"])]
    steps = steps[steps["step"] > steps["cell_id"].map(cells.set_index("cell_id")["warm_up"])]
    done = steps.groupby(["cell_id", "attempt"])["attempt_step"].transform("max")
    return steps[steps["attempt_step"] > (done // 2).clip(upper=FIRST_STEPS)]


def _row(data: GridData, cells: pd.DataFrame) -> dict[str, Any]:
    first = cells.iloc[0]
    steps = timed_steps(data, cells)
    row: dict[str, Any] = {
        "label": first["label"],
        **{name: first[name] for name in ("model", "backprop", "schedule", "variant")},
        "timed_steps": len(steps),
    }
    for phase in ("total", *PHASES):
        row |= stats.summary(steps[f"seconds_{phase}"], f"seconds_{phase}")
    for name in ("nfe", "adjoint_nfe", "nfe_imbalance"):
        row[name] = steps[name].mean()
    row["throughput"] = first["global_batch_size"] / row["seconds_total_mean"]
    row |= _probed(data.probes[data.probes["cell_id"].isin(cells["cell_id"])])
    return row | context.columns(cells) | {name: first[name] for name in ("family", "tuned_family", "method", "timed")}


def _probed(probes: pd.DataFrame) -> dict[str, float]:
    """The probe's measurements, averaged over seeds."""
    names = {
        "seconds": "gradient_seconds",
        "seconds_spread": "gradient_seconds_iqr",
        **{
            name: name
            for name in ("exposed_communication", "peak_allocated_bytes", "saved_bytes", "flops", "gradient_bytes")
        },
    }
    return {shown: float(probes[name].mean()) if len(probes) else math.nan for name, shown in names.items()}


def _ratio_to_jfb(data: GridData, frame: pd.DataFrame, row: dict[str, Any]) -> tuple[float, float, float]:
    """The ratio of mean step times with its interval, which only a timing cell gives."""
    interleaved = timing_frame(data)
    if len(interleaved):
        same = interleaved[(interleaved["timed"] == row["timed"]) & interleaved["ratio"].notna()]
        if len(same):
            return tuple(same[["ratio", "ratio_low", "ratio_high"]].iloc[0])
    same = trained_by_jfb(frame, row)
    ratio = math.nan if same.empty else float(row["seconds_total_mean"] / same["seconds_total_mean"].iloc[0])
    return ratio, math.nan, math.nan


def cost_against_quality(data: GridData) -> Figure | None:
    """The time of a training step against the PSNR that the trained method reaches."""
    accuracy, cost = accuracy_frame(data), cost_frame(data)
    if cost.empty or cost["seconds_total_mean"].isna().all():
        return None
    both = cost.merge(accuracy[["method", "psnr", "psnr_seed_std", "protocol"]], on="method")
    colour_of = colours(both["variant"])
    markers = {str(model): MARKERS[k % len(MARKERS)] for k, model in enumerate(both["model"].unique())}
    canvas = Canvas(figsize=(WIDTH, 4.6), layout="constrained")
    axes = canvas.subplots()
    for row in both.to_dict("records"):
        error = None if math.isnan(row["psnr_seed_std"]) else row["psnr_seed_std"]
        axes.errorbar(
            row["seconds_total_mean"], row["psnr"], yerr=error, marker=markers[row["model"]], markersize=9,
            color=colour_of[row["variant"]], markeredgecolor="white", linestyle="none",
        )  # fmt: skip
    for model, marker in markers.items():
        axes.plot([], [], marker=marker, color="0.4", linestyle="none", markersize=8, label=model)
    for variant, colour in colour_of.items():
        axes.plot([], [], color=colour, linewidth=6, solid_capstyle="butt", label=variant)
    reference_lines(axes, data, "test", both["protocol"])
    axes.set(xlabel="Mean time of a training step (s)", ylabel="Test PSNR (dB)")
    axes.set_xlim(left=0)
    sns.despine(canvas)
    canvas.legend(loc="outside right upper", frameon=False)
    caption = "Up and to the left is better. Markers distinguish models, and colors backprop methods."
    return render("cost-quality", "Cost against quality", caption, canvas)


def phase_breakdown(cost: pd.DataFrame) -> Figure | None:
    """How the time of a training step is divided among its phases."""
    if cost.empty or cost["seconds_total_mean"].isna().all():
        return None
    canvas = Canvas(figsize=(WIDTH, 1.2 + 0.36 * len(cost)), layout="constrained")
    axes = canvas.subplots()
    left = np.zeros(len(cost))
    for phase, colour in zip(PHASES, PHASE_COLOURS, strict=True):
        widths = cost[f"seconds_{phase}_mean"].to_numpy(dtype=float)
        axes.barh(cost["label"], widths, left=left, color=colour, height=0.72, label=phase.replace("_", " "))
        left += widths
    for position, (end, ratio) in enumerate(zip(left, cost["ratio"], strict=True)):
        if not math.isnan(ratio):
            axes.annotate(f"{ratio:.2f}", (end, position), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="Mean seconds in one training step")
    axes.margins(x=0.06)
    sns.despine(canvas, left=True)
    axes.tick_params(axis="y", length=0)
    canvas.legend(loc="outside upper center", ncols=len(PHASES), frameon=False)
    caption = "Means over ranks. The number is the step over jfb of the table."
    return render("phases", "Where a step's time goes", caption, canvas)
