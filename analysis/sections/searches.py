"""The searches by which baselines were tuned."""

import seaborn as sns

from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, facets, finish, log_ticks, render
from analysis.rendering.section import Section, drawn


def section(data: GridData) -> Section:
    """The curve of each search."""
    return Section("Searches of the tuned baselines", figures=drawn(lambda: search_curves(data)))


def search_curves(data: GridData) -> Figure | None:
    """Validation PSNR against the candidates of each baseline's search."""
    if data.searches.empty:
        return None
    names = _names(data)
    searches = {
        f"{names[str(cell_id)]}, {parameter}": rows
        for (cell_id, parameter), rows in data.searches.groupby(["cell_id", "parameter"], sort=False)
    }
    canvas, axes_of = facets(list(searches), columns=3, share=False)
    for (label, rows), axes in zip(searches.items(), axes_of.values(), strict=True):
        ordered = rows.sort_values("candidate")
        chosen = ordered[ordered["candidate"] == ordered["chosen"]]
        axes.plot(ordered["candidate"], ordered["psnr"], "o-", color="0.45", markersize=4)
        axes.plot(chosen["candidate"], chosen["psnr"], "o", color=sns.color_palette("colorblind")[1], markersize=9)
        axes.set(title=label, xscale="log")
        log_ticks(axes.xaxis)
    finish(canvas, axes_of, "", "Validation PSNR (dB)")
    caption = "Mean PSNR on the validation pictures that each search uses; the chosen value is marked."
    return render("searches", "Searches of the tuned baselines", caption, canvas)


def _names(data: GridData) -> dict[str, str]:
    """The label of each cell, with its seed where several seeds of a method share it."""
    shared = data.cells["label"].value_counts()
    return {
        str(cell_id): str(label) if shared[label] == 1 else f"{label}, seed {seed}"
        for cell_id, label, seed in zip(data.cells.index, data.cells["label"], data.cells["seed"], strict=True)
    }
