"""The conditions under which methods are compared, and their PSNR at equal steps, evaluations of T and seconds."""

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading import conditions
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, colours, facets, finish, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table

BUDGETS = {"step": "Training steps", "evaluations": "Evaluations of T and products", "seconds": "Seconds of training"}
"""The budgets that can be held equal: each is a column of a validation curve, with its name."""
COLUMNS = (
    Column("label", "Method", rank=1),
    Column("distinct_pictures", "Distinct pictures", ",d", rank=2),
    Column("noise_draws", "Noise draws", ",d", rank=6),
    Column("steps", "Steps", ",d", rank=5),
    Column("evaluations", "Evaluations of T", ",d", rank=3),
    Column("products", "Adjoint products", ",d", rank=4),
    Column("seconds", "Seconds of training", ",.0f", rank=3),
    Column("trials", "Tuning trials", ",d", rank=6),
    Column("at_equal_step", "At equal steps, dB", ".2f", best="max", rank=2),
    Column("at_equal_evaluations", "At equal evaluations, dB", ".2f", best="max", rank=2),
    Column("at_equal_seconds", "At equal seconds, dB", ".2f", best="max", rank=2),
    Column("cut_forward", "Forward solves cut", ".1%", rank=8),
    Column("cut_adjoint", "Adjoint solves cut", ".1%", rank=8),
)


def section(data: GridData) -> Section:
    """The conditions of the comparison, and curves against each budget."""
    return Section("Conditions and equal budgets", budget_table(data), (), drawn(lambda: budget_curves(data)))


@cache
def budget_frame(data: GridData) -> pd.DataFrame:
    """One row per trained method with a finished cell, averaged over its seeds."""
    curves = validation_curves(data)
    rows = [_row(data, cells, curves) for _, cells in data.trained.groupby("method", sort=False)]
    for row in rows:
        row |= _at_equal_budgets([other for other in rows if other["group"] == row["group"]], row)
    return pd.DataFrame(rows).drop(columns="curve") if rows else pd.DataFrame()


def budget_table(data: GridData) -> Table:
    """The table of conditions."""
    notes = [
        "Numbers are means over seeds. Evaluations of T are counted for every picture of the batch; they include those "
        "of solves without a graph and the one with a graph. Products are those with the Jacobian in adjoint solves. "
        "Seconds are the wall time of training steps. Tuning trials are trainings that decided fields of this one.",
        "At equal steps, evaluations (including products) and seconds, the table shows the validation PSNR at the end "
        "of the smallest budget among the methods of the same model, interpolated between validations.",
        "A solve is cut if it ended at its limit, above its tolerance. A method with more than 5 % of its adjoint "
        'solves cut has "cut" in its name.',
    ]
    caption, command = conditions.caption(data, data.trained), conditions.command(data.declared)
    return Table(
        "conditions", "Conditions and equal budgets", budget_frame(data), COLUMNS, caption, command, notes, "group"
    )


@cache
def validation_curves(data: GridData) -> pd.DataFrame:
    """Validation PSNR of each trained cell against steps, evaluations and seconds: one row per evaluation."""
    scores = data.evaluations[data.evaluations["split"] == "validation"]
    means = scores.groupby(["cell_id", "step"], sort=False)["psnr"].mean().reset_index()
    steps = _spent(data)
    curves = means[means["cell_id"].isin(data.trained["cell_id"])].merge(steps, on=["cell_id", "step"], how="left")
    return curves.fillna({"evaluations": 0.0, "products": 0.0, "seconds": 0.0})


def budget_curves(data: GridData) -> Figure | None:
    """Validation PSNR against each budget, one facet per budget and model."""
    curves = validation_curves(data).merge(_names(data), on="cell_id")
    if curves.empty or curves["step"].max() == 0:
        return None
    pairs = [(str(model), budget) for model in curves["model"].unique() for budget in BUDGETS]
    canvas, axes_of = facets([f"{model}: {BUDGETS[budget].lower()}" for model, budget in pairs], 3, share=False)
    colour_of = colours(curves["variant"])
    for (model, budget), axes in zip(pairs, axes_of.values(), strict=True):
        for variant, rows in curves[curves["model"] == model].groupby("variant", sort=False):
            mean = rows.groupby(rows["step"].rename("at"))[[budget, "psnr"]].mean()
            axes.plot(mean[budget], mean["psnr"], "o-", color=colour_of[str(variant)], markersize=3, label=str(variant))
        axes.set(title=f"{model}: {BUDGETS[budget].lower()}")
    finish(canvas, axes_of, "", "Validation PSNR (dB)")
    caption = "Means over seeds. Methods that are equally good at equal steps may differ at equal work or time."
    return render("budgets", "Quality against steps, work and time", caption, canvas)


def _names(data: GridData) -> pd.DataFrame:
    return data.trained[["cell_id", "model", "variant"]].reset_index(drop=True)


def _spent(data: GridData) -> pd.DataFrame:
    """What each cell had spent after each training step, over the whole global batch."""
    steps = data.steps.merge(
        data.trained[["cell_id", "global_batch_size"]].reset_index(drop=True), on="cell_id"
    ).sort_values(["cell_id", "step"])
    batch = steps["global_batch_size"].astype(float)
    each = pd.DataFrame(
        {
            "products": steps["adjoint_nfe"] * batch if len(steps) else [],
            "evaluations": (steps["nfe"] + 1 + steps["adjoint_nfe"]) * batch if len(steps) else [],
            "seconds": steps["seconds_total"] if len(steps) else [],
        }
    ).astype(float)
    return pd.concat([steps[["cell_id", "step"]], each.groupby(steps["cell_id"]).cumsum()], axis=1)


def _row(data: GridData, cells: pd.DataFrame, curves: pd.DataFrame) -> dict[str, Any]:
    first, mine = cells.iloc[0], curves[curves["cell_id"].isin(cells["cell_id"])]
    last = mine.sort_values("step").groupby("cell_id").tail(1)
    exposed = data.exposures[data.exposures["cell_id"].isin(cells["cell_id"])]
    steps = data.steps[data.steps["cell_id"].isin(cells["cell_id"])]
    return {
        "label": first["label"],
        "group": f"{first['model']} {first['protocol']}",
        "method": first["method"],
        **{name: _mean(exposed[name]) for name in ("distinct_pictures", "noise_draws")},
        "steps": first["steps"],
        "evaluations": _mean(last["evaluations"] - last["products"]),
        "products": _mean(last["products"]),
        "seconds": _mean(last["seconds"]),
        "trials": data.searches[data.searches["cell_id"] == first["cell_id"]]["trials"].max(),
        "cut_forward": _mean(steps["unconverged"]),
        "cut_adjoint": _mean(steps["adjoint_unconverged"]),
        "curve": mine.groupby("step")[["evaluations", "seconds", "psnr"]].mean().reset_index(),
    }


def _at_equal_budgets(group: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, float]:
    """Validation PSNR of a row at the smallest budget of its group."""
    found = {}
    for budget in BUDGETS:
        smallest = min(float(other["curve"][budget].max()) for other in group)
        found[f"at_equal_{budget}"] = _at(row["curve"], budget, smallest)
    return found


def _at(curve: pd.DataFrame, budget: str, value: float) -> float:
    if curve.empty or value < curve[budget].min():
        return math.nan
    return float(np.interp(value, curve[budget], curve["psnr"]))


def _mean(values: "pd.Series[Any]") -> float:
    known = values.dropna().astype(float)
    return float(known.mean()) if len(known) else math.nan
