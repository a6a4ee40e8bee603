"""The searches by which baselines and trained methods were tuned."""

import pandas as pd
import seaborn as sns

from analysis.reading import conditions
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, facets, finish, log_ticks, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table

COLUMNS = (
    Column("label", "Method", rank=1),
    Column("parameter", "Field", rank=2),
    Column("tried", "Values tried", rank=4),
    Column("chosen", "Chosen", ".3g", rank=2),
    Column("place", "Place", rank=3),
    Column("psnr", "Validation PSNR, dB", ".2f", rank=3),
    Column("trials", "Trainings", ",d", rank=5),
)


def section(data: GridData) -> Section:
    """What each search tried and chose, and its curve."""
    return Section("Tuning", search_table(data), (), drawn(lambda: search_curves(data)))


def distinct_searches(data: GridData) -> pd.DataFrame:
    """The rows of all searches; cells of one trained method share theirs, which counts once."""
    method = data.searches["cell_id"].map(data.cells["method"])
    kind = data.searches["cell_id"].map(data.cells["kind"])
    owner = method.where(kind == "train", data.searches["cell_id"])
    first = data.searches.groupby([owner, "parameter"])["cell_id"].transform("first")
    return data.searches[data.searches["cell_id"] == first]


def search_table(data: GridData) -> Table:
    """One row per search."""
    searches = distinct_searches(data)
    names = _names(data)
    rows = [
        {
            "label": names[str(cell_id)],
            "parameter": parameter,
            "tried": ", ".join(f"{value:.3g}" for value in sorted(rows["candidate"])),
            "chosen": rows["chosen"].iloc[0],
            "place": "interior" if rows["interior"].iloc[0] else "at an edge: try further values",
            "psnr": rows["psnr"].max(),
            "trials": rows["trials"].iloc[0] or float("nan"),
        }
        for (cell_id, parameter), rows in searches.groupby(["cell_id", "parameter"], sort=False)
    ]
    notes = [
        "A baseline is tuned on validation pictures by itself. A trained method is tuned by trials, whole trainings "
        "with seeds of their own; their number is the same for every method. Test pictures play no part.",
    ]
    cells = data.scored[data.scored["cell_id"].isin(searches["cell_id"])]
    caption, command = conditions.caption(data, cells, "validation"), conditions.command(data.declared)
    return Table("tuning", "Tuning", pd.DataFrame(rows), COLUMNS, caption, command, notes)


def search_curves(data: GridData) -> Figure | None:
    """Validation PSNR against the values that each search tried."""
    if data.searches.empty:
        return None
    names = _names(data)
    searches = {
        f"{names[str(cell_id)]}, {parameter}": rows
        for (cell_id, parameter), rows in distinct_searches(data).groupby(["cell_id", "parameter"], sort=False)
    }
    canvas, axes_of = facets(list(searches), columns=3, share=False)
    for (label, rows), axes in zip(searches.items(), axes_of.values(), strict=True):
        ordered = rows.sort_values("candidate")
        chosen = ordered[ordered["candidate"] == ordered["chosen"]]
        axes.plot(ordered["candidate"], ordered["psnr"], "o-", color="0.45", markersize=4)
        axes.plot(chosen["candidate"], chosen["psnr"], "o", color=sns.color_palette("colorblind")[1], markersize=9)
        axes.set(title=label)
        if ordered["candidate"].min() > 0:
            axes.set(xscale="log")
            log_ticks(axes.xaxis)
    finish(canvas, axes_of, "", "Validation PSNR (dB)")
    caption = "Mean PSNR on the validation pictures that each search uses; the chosen value is marked."
    return render("searches", "Searches of tuned parameters", caption, canvas)


def _names(data: GridData) -> dict[str, str]:
    """The label of each cell, with its seed where several seeds of a baseline share it."""
    baselines = data.cells[data.cells["kind"] == "baseline"]
    shared = baselines["label"].value_counts()
    return {
        str(cell_id): f"{label}, seed {seed}" if shared.get(label, 1) > 1 else str(label)
        for cell_id, label, seed in zip(data.cells.index, data.cells["label"], data.cells["seed"], strict=True)
    }
