"""What a gradient of each method costs: time by phase in training, and memory, work and traffic from the probe."""

import math
from typing import Any

import pandas as pd

from analysis import statistics as stats
from analysis.reading import conditions as context
from analysis.reading.load import PHASES, GridData, trained_by_jfb
from analysis.rendering.tables import Column, Table

FIRST_STEPS = 5
"""Steps dropped at the start of every attempt, but never more than half of what it did."""

MIB = 2.0**-20


def _timed(phase: str, label: str) -> Column:
    keys = (f"seconds_{phase}_p90", f"seconds_{phase}_max")
    return Column(f"seconds_{phase}_median", f"{label}, ms", ",.1f", keys, joiner=" / ", scale=1e3)


COLUMNS = (
    Column("label", "Method", rank=1),
    Column("seconds_total_median", "Step, ms", ",.1f", best="min", scale=1e3, rank=1),
    Column("seconds_total_mean", "Step mean, ms", ",.1f", best="min", scale=1e3, rank=2),
    Column("seconds_total_p90", "Step p90, ms", ",.1f", scale=1e3, rank=9),
    Column("seconds_total_max", "Step max, ms", ",.1f", scale=1e3),
    Column("ratio", "Step over jfb", ".2f", rank=2),
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


def cost_frame(data: GridData) -> pd.DataFrame:
    """One row a trained method that has a finished cell, in the grid's order."""
    trained = data.finished[data.finished["kind"] == "train"]
    rows = [_row(data, cells) for _, cells in trained.groupby("method", sort=False)]
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["ratio"] = [_ratio_to_jfb(frame, row) for row in rows]
    return frame


def cost_table(data: GridData, frame: pd.DataFrame) -> Table:
    """The cost table of a grid."""
    notes = [
        f"Times: median, mean, 90th percentile and maximum over training steps, without the first {FIRST_STEPS} steps "
        f"of each attempt (half of them where it did less than {2 * FIRST_STEPS}) and those of the warm-up by jfb; "
        "phases show median / p90 / max. Each phase counts on its slowest rank; a step is the sum of its phases. With "
        "a pool some steps solve in full and most only go on: the median sees the latter, the mean counts both.",
        "Step over jfb: mean step time over that of the same model and settings trained by jfb, the learning rate "
        "apart. Images/s: global batch over the mean step time, which is all timed samples over all timed seconds. "
        "Ratios are what to compare between machines.",
        "Gradient alone, exposed gradient synchronisation, peak, saved bytes and GFLOP: from the probe, one gradient "
        "on a fixed batch, worst rank; a ± b: median and interquartile range of its repeats. GFLOP counts one rank.",
        "nfe and adjoint products: per picture in training, mean over the timed steps; nfe imbalance: busiest rank "
        "over the mean of all ranks.",
    ]
    cells = data.finished[data.finished["kind"] == "train"]
    caption, command = context.caption(data, cells), context.command(data.declared)
    return Table("cost", "Cost of one gradient", frame, COLUMNS, caption, command, notes)


def timed_steps(data: GridData, cells: pd.DataFrame) -> pd.DataFrame:
    """The training steps of some cells that count for timing."""
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
    return row | context.columns(cells) | {name: first[name] for name in ("family", "tuned_family", "method")}


def _probed(probes: pd.DataFrame) -> dict[str, float]:
    """Means over seeds."""
    names = {
        "seconds": "gradient_seconds",
        "seconds_spread": "gradient_seconds_iqr",
        **{
            name: name
            for name in ("exposed_communication", "peak_allocated_bytes", "saved_bytes", "flops", "gradient_bytes")
        },
    }
    return {shown: float(probes[name].mean()) if len(probes) else math.nan for name, shown in names.items()}


def _ratio_to_jfb(frame: pd.DataFrame, row: dict[str, Any]) -> float:
    same = trained_by_jfb(frame, row)
    if same.empty:
        return math.nan
    return float(row["seconds_total_mean"] / same["seconds_total_mean"].iloc[0])
