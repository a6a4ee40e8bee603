"""How good each method's reconstructions are: one row a method, seeds averaged, differences paired by picture."""

import math
from functools import cache
from typing import Any

import pandas as pd

from analysis import statistics as stats
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table
from analysis.sections.comparisons import compare, final_scores, paired, reference, trained_by_jfb
from analysis.sections.metrics import metric_columns
from analysis.statistics import Estimate

OTHER_COLUMNS = (
    Column("start_psnr", "PSNR at step 0, dB", ".2f"),
    Column("gain", "Gain over step 0, dB", "+.2f", ("gain_error",), rank=3),
    Column("over_jfb", "Over jfb, dB", "+.2f", ("over_jfb_error",), rank=6),
    Column("over_tikhonov", "Over Tikhonov, dB", "+.2f", ("over_tikhonov_error",), rank=5),
    Column("over_tv", "Over TV, dB", "+.2f", ("over_tv_error",), rank=4),
    Column("residual_median", "Median residual", ".1e"),
    Column("residual_max", "Worst residual", ".1e", rank=8),
    Column("nfe", "nfe", ".1f", rank=9),
    Column("diverged", "Diverged", "d", rank=7),
    Column("parameters", "Trained parameters", ",d"),
    Column("pictures", "Test pictures", "d"),
    Column("seed_count", "Seeds", "d"),
    Column("tuned", "Tuned parameter"),
)

REFERENCES = {"over_tikhonov": "tikhonov", "over_tv": "total-variation"}
"""Baselines that every method is compared with."""


@cache
def accuracy_frame(data: GridData) -> pd.DataFrame:
    """One row a method that has a finished cell: baselines, then trained methods, each in the grid's order."""
    methods = [group for _, group in data.finished.groupby("method", sort=False) if group["kind"].iloc[0] != "pretrain"]
    ordered = sorted(methods, key=lambda cells: cells["kind"].iloc[0] != "baseline")
    return pd.DataFrame([_row(data, cells) for cells in ordered])


def accuracy_table(data: GridData) -> Table:
    """The accuracy table of a grid."""
    frame, cells = accuracy_frame(data), data.finished[data.finished["kind"] != "pretrain"]
    notes = [
        "PSNR and SSIM are means over test pictures on pixels clamped to their range; legacy PSNR is explained in the "
        "report. nfe is the number of function evaluations of T per picture.",
        "a ± b after a difference: mean over pictures, paired, and its standard error over pictures.",
    ]
    if len(frame) and frame["seed_count"].max() > 1:
        notes.append("a ± b after a score: mean over seeds and standard deviation over seeds.")
    caption, command = context.caption(data, cells), context.command(data.declared)
    columns = (Column("label", "Method", rank=1), *metric_columns(data, "_seed_std"), *OTHER_COLUMNS)
    return Table("accuracy", "Accuracy", frame, columns, caption, command, notes)


def section(data: GridData) -> Section:
    """Accuracy, and the two conventions of PSNR."""
    return Section("Accuracy", accuracy_table(data), CONVENTIONS, without_rows="No method is finished.")


CONVENTIONS = (
    "Two conventions of PSNR. Standard PSNR clamps a reconstruction to the pixel range and takes the width of that "
    "range as its peak. Legacy PSNR is the figure of the code behind the paper and behind Gilton et al.: -10 log10 of "
    "the mean squared error on [-1, 1], not clamped, with a peak of 1 although the range is 2 wide. For the same error "
    "that is 20 log10 2 = 6.02 dB less, and lower still where clamping helps. Compare figures of one convention only.",
)


def _row(data: GridData, cells: pd.DataFrame) -> dict[str, Any]:
    first = cells.iloc[0]
    test = final_scores(data, cells)
    row: dict[str, Any] = {
        "label": first["label"],
        "group": first["kind"],
        **{name: first[name] for name in ("model", "backprop", "schedule", "baseline", "variant")},
        "seed_count": len(cells),
        "pictures": max(map(len, test), default=0),
        "diverged": sum(int(seed["diverged"].sum()) for seed in test),
        "validation_psnr": stats.over_seeds(final_scores(data, cells, "validation"), "psnr")[0],
    }
    for metric in data.metrics:
        row[metric.key], row[f"{metric.key}_seed_std"] = stats.over_seeds(test, metric.key)
    row |= _fixed_point(data, cells, test) if first["kind"] == "train" else {"tuned": _tuned(data, first["cell_id"])}
    for column, baseline in REFERENCES.items():
        if first["baseline"] != baseline:
            row |= _difference(column, compare(data, cells, reference(data, first["protocol"], baseline)))
    return row | context.columns(cells) | {"protocol": first["protocol"], "method": first["method"]}


def _fixed_point(data: GridData, cells: pd.DataFrame, test: list[pd.DataFrame]) -> dict[str, Any]:
    """What only a trained equilibrium has: a start, a residual, and the same model trained by jfb."""
    first = cells.iloc[0]
    evaluations = (evaluation for cell_id in cells["cell_id"] for evaluation in data.scores.get((cell_id, "test"), []))
    start = [evaluation for evaluation in evaluations if evaluation["step"].iloc[0] == 0]
    over_jfb = (
        compare(data, cells, trained_by_jfb(data.finished, first))
        if first["backprop"] != "jfb"
        else stats.estimate(pd.Series(dtype=float))
    )
    # A feed-forward network's residual is only how far its output lies from its start.
    iterated = test if first["iterates"] else []
    residuals = pd.concat([seed["residual"] for seed in iterated]) if iterated else pd.Series(dtype=float)
    return {
        "start_psnr": stats.over_seeds(start, "psnr")[0],
        **_difference("gain", paired(test, start)),
        **_difference("over_jfb", over_jfb),
        "residual_median": residuals.median(),
        "residual_max": residuals.max(),
        "nfe": stats.over_seeds(test, "nfe")[0],
        "parameters": _parameters(data, first["cell_id"]),
        "tol": first["tol"],
        "unconverged": int((residuals > first["tol"]).sum()) if first["tol"] is not None else math.nan,
    }


def _difference(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.mean, f"{name}_error": found.error}


def _parameters(data: GridData, cell_id: str) -> float:
    """How many numbers are trained, from the bytes of their gradient."""
    probes = data.probes[data.probes["cell_id"] == cell_id]
    size = 8 if data.configs[cell_id]["precision"] == "float64" else 4
    return float(probes["gradient_bytes"].iloc[0]) / size if len(probes) else math.nan


def _tuned(data: GridData, cell_id: str) -> str:
    """The parameters that a baseline's searches chose."""
    searches = data.searches[data.searches["cell_id"] == cell_id].drop_duplicates("parameter")
    return "; ".join(
        f"{row['parameter']} {row['chosen']:.3g}, {'interior' if row['interior'] else 'at the edge'}"
        for row in searches.to_dict("records")
    )
