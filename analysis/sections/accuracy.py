"""The quality of each method's reconstructions: one row per method, with differences paired by seed and picture."""

import math
from functools import cache
from typing import Any

import pandas as pd

from analysis import statistics as stats
from analysis.inference import Contrast, seeds_needed, with_holm
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table
from analysis.sections.comparisons import MARGIN, compare, contrast, final_scores, reference, seeds_of, trained_by_jfb
from analysis.sections.metrics import metric_columns

OTHER_COLUMNS = (
    Column("start_psnr", "PSNR at step 0, dB", ".2f"),
    Column("gain", "Gain over step 0, dB", "+.2f", interval=("gain_low", "gain_high"), rank=3),
    Column("over_jfb", "Over jfb, dB", "+.2f", interval=("over_jfb_low", "over_jfb_high"), rank=6),
    Column("over_jfb_verdict", "Against jfb", rank=6),
    Column("over_jfb_seeds_needed", f"Seeds needed for ±{MARGIN} dB", ",d"),
    Column("over_tikhonov", "Over Tikhonov, dB", "+.2f", interval=("over_tikhonov_low", "over_tikhonov_high"), rank=5),
    Column("over_tv", "Over TV, dB", "+.2f", interval=("over_tv_low", "over_tv_high"), rank=4),
    Column("residual_median", "Median residual", ".1e"),
    Column("residual_max", "Worst residual", ".1e", rank=8),
    Column("unit_residual_median", "Median residual per unit step", ".1e"),
    Column("unconverged", "Unconverged test solves", "d", rank=8),
    Column("nfe", "nfe", ".1f", rank=9),
    Column("diverged", "Diverged", "d", rank=7),
    Column("parameters", "Trained parameters", ",d"),
    Column("pictures", "Test pictures", "d"),
    Column("seed_count", "Seeds", "d"),
    Column("tuned", "Tuned parameter"),
)

REFERENCES = {"over_tikhonov": "tikhonov", "over_tv": "total-variation"}
"""Baselines that every method is compared with."""
COMPARISONS = ("gain", "over_jfb", *REFERENCES)
"""Each is a family of contrasts whose p-values are corrected together (Holm 1979)."""


@cache
def accuracy_frame(data: GridData) -> pd.DataFrame:
    """One row per method with a finished cell: baselines, then trained methods, each in the grid's order."""
    methods = [group for _, group in data.scored.groupby("method", sort=False)]
    ordered = sorted(methods, key=lambda cells: cells["kind"].iloc[0] != "baseline")
    rows = [_row(data, cells) for cells in ordered]
    compared = {name: _contrasts(data, name, ordered) for name in COMPARISONS}
    for name, contrasts in compared.items():
        for row, found in zip(rows, contrasts, strict=True):
            row |= _columns(name, found)
    return pd.DataFrame(rows)


def accuracy_table(data: GridData) -> Table:
    """The accuracy table of a grid."""
    frame, cells = accuracy_frame(data), data.scored
    notes = [
        "PSNR and SSIM are means over test pictures, computed on pixels clamped to their range; the report explains "
        "legacy PSNR. nfe is the number of function evaluations of T per picture.",
        "Differences are shown as a [b, c], the mean and its 95 % interval, paired by seed and by picture; seeds and "
        "pictures both count as random draws. There is no interval for a single seed, or if all pictures are patches "
        "of one photograph. Verdicts are corrected for the number of comparisons in their column (Holm); equivalent "
        f"means within {MARGIN} dB. For an undecided comparison with jfb, the table says how many seeds its interval "
        f"would need to shrink to ±{MARGIN} dB, if new seeds and pictures vary like these; it says nothing if one seed "
        "leaves that open, or if there are too few pictures for any number of seeds.",
        "Unconverged counts the solves that ended at the limit of evaluations, above the tolerance of the evaluation. "
        "The residual per unit step is that of the undamped map, divided by its step size, and can be compared across "
        "maps.",
    ]
    if len(frame) and frame["seed_count"].max() > 1:
        notes.append("Scores are shown as a ± b, the mean and the standard deviation over seeds.")
    caption, command = context.caption(data, cells), context.command(data.declared)
    columns = (Column("label", "Method", rank=1), *metric_columns(data, "_seed_std"), *OTHER_COLUMNS)
    return Table("accuracy", "Accuracy", frame, columns, caption, command, notes)


def section(data: GridData) -> Section:
    """The accuracy of all methods, and the two conventions of PSNR."""
    return Section("Accuracy", accuracy_table(data), CONVENTIONS, without_rows="No method is finished.")


CONVENTIONS = (
    "There are two conventions of PSNR. Standard PSNR clamps a reconstruction to the pixel range and uses the width of "
    "that range as the peak. Legacy PSNR is what the code of the paper and of Gilton et al. computes: -10 log10 of the "
    "mean squared error on [-1, 1], without clamping, with a peak of 1 although the range is 2 wide. For the same "
    "error, that is 20 log10 2 = 6.02 dB less, and even less if clamping helps. Compare only numbers of one kind.",
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
    row["tuned"] = _tuned(data, first["cell_id"])
    row |= _fixed_point(data, cells, test) if first["kind"] == "train" else {}
    return row | context.columns(cells) | {"protocol": first["protocol"], "method": first["method"]}


def _fixed_point(data: GridData, cells: pd.DataFrame, test: list[pd.DataFrame]) -> dict[str, Any]:
    """The columns that only a trained model has, such as its PSNR at step 0 and the residuals of its solves."""
    first = cells.iloc[0]
    start = [evaluations[0] for cell_id in cells["cell_id"] if (evaluations := data.scores.get((cell_id, "test"), []))]
    # The residual of a feed-forward network only says how far its output is from its input.
    iterated = test if first["iterates"] else []
    solves = pd.concat(iterated) if iterated else pd.DataFrame(columns=["residual", "unit_residual", "unconverged"])
    return {
        "start_psnr": stats.over_seeds(start, "psnr")[0],
        "residual_median": solves["residual"].median(),
        "residual_max": solves["residual"].max(),
        "unit_residual_median": solves["unit_residual"].median(),
        "nfe": stats.over_seeds(test, "nfe")[0],
        "parameters": _parameters(data, first["cell_id"]),
        "tol": first["tol"],
        "unconverged": int(solves["unconverged"].sum()) if first["tol"] is not None else math.nan,
    }


def _contrasts(data: GridData, name: str, methods: list[pd.DataFrame]) -> list[Contrast | None]:
    """One comparison for every method that has it, with verdicts corrected for the number of comparisons."""
    found = [_contrast(data, name, cells) for cells in methods]
    corrected = iter(with_holm([one for one in found if one is not None]))
    return [None if one is None else next(corrected) for one in found]


def _contrast(data: GridData, name: str, cells: pd.DataFrame) -> Contrast | None:
    first = cells.iloc[0]
    if name in REFERENCES:
        is_itself = first["baseline"] == REFERENCES[name]
        return None if is_itself else compare(data, cells, reference(data, first["protocol"], REFERENCES[name]))
    if first["kind"] != "train":
        return None
    if name == "gain":
        return contrast(data, cells, seeds_of(data, cells), seeds_of(data, cells, step=0))
    return None if first["backprop"] == "jfb" else compare(data, cells, trained_by_jfb(data.finished, first))


def _columns(name: str, found: Contrast | None) -> dict[str, Any]:
    if found is None:
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan, f"{name}_verdict": ""}
    interval = {f"{name}_low": found.low, f"{name}_high": found.high}
    needed = seeds_needed(found, MARGIN) if found.verdict == "undecided" else None
    verdict = {f"{name}_p": found.p_value, f"{name}_verdict": found.verdict, f"{name}_seeds_needed": needed}
    return {name: found.mean, **interval, **verdict}


def _parameters(data: GridData, cell_id: str) -> float:
    """The number of trained parameters, computed from the size of their gradient in bytes."""
    probes = data.probes[data.probes["cell_id"] == cell_id]
    size = 8 if data.configs[cell_id]["precision"] == "float64" else 4
    return float(probes["gradient_bytes"].iloc[0]) / size if len(probes) else math.nan


def _tuned(data: GridData, cell_id: str) -> str:
    """The parameters that a method's searches chose."""
    searches = data.searches[data.searches["cell_id"] == cell_id].drop_duplicates("parameter")
    return "; ".join(
        f"{row['parameter']} {row['chosen']:.3g}, {'interior' if row['interior'] else 'at the edge'}"
        for row in searches.to_dict("records")
    )
