"""The two exhibits of the paper, drawn from a grid's own pictures: Figure 1, the loss of DE-GRAD, and Table 1."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure as Canvas

from analysis.reading.load import GridData
from analysis.rendering.figures import WIDTH, Figure, render
from analysis.rendering.pictures import LINE, Column, column, comparisons, mosaic, pixels, truth
from analysis.rendering.section import Section, drawn_all
from analysis.sections.all_pictures import best_cells
from analysis.sections.curves import loss_label

ROWS = {"degraded": "noisy blurred image", "direct-inverse": "direct inverse", "gradient-descent": "gradient descent"}
"""The rows of Table 1 between the ground truth and JFB."""
PICTURES = 4


def section(data: GridData) -> Section:
    """The two exhibits of the paper, and test pictures reconstructed by each method."""
    return Section("Reconstructions", figures=drawn_all(lambda: [*paper_figures(data), *comparisons(data)]))


def paper_figures(data: GridData) -> list[Figure]:
    """The exhibits that can be drawn; both show DE-GRAD trained by JFB, in its best cell on validation pictures."""
    if data.finished.empty:
        return []
    best = best_cells(data)
    jfb = best[(best["model"] == "de-grad") & (best["backprop"] == "jfb")]
    found = [figure for cell in jfb.to_dict("records")[:1] for figure in (_figure_1(data, cell), _table_1(data, cell))]
    return [figure for figure in found if figure is not None]


def _figure_1(data: GridData, cell: dict[Any, Any]) -> Figure | None:
    """Training loss against steps times batch size; with a pool, a sample counts each time it is visited."""
    steps = data.steps[data.steps["cell_id"] == cell["cell_id"]]
    losses = pd.Series(steps["loss"].to_numpy(dtype=float), index=steps["step"] * cell["global_batch_size"])
    losses = losses[np.isfinite(losses)]
    if losses.empty:
        return None
    window = max(1, len(losses) // 15)
    canvas = Canvas(figsize=(WIDTH * 0.6, 3.2), layout="constrained")
    axes = canvas.subplots()
    axes.plot(losses.index, losses, color="0.75", linewidth=0.8)
    axes.plot(losses.index, losses.rolling(window, min_periods=1, center=True).mean(), color="C0", linewidth=1.8)
    label = loss_label(data, [cell["cell_id"]])
    axes.set(xlabel="Training samples processed", ylabel=label, ylim=(0, None))
    sns.despine(canvas)
    caption = (
        f"{cell['label']}, seed {cell['seed']}: loss of each batch (faint) and its running mean over {window} steps."
    )
    return render("figure-1", "The paper's Figure 1: loss of DE-GRAD trained by JFB", caption, canvas)


def _table_1(data: GridData, cell: dict[Any, Any]) -> Figure | None:
    """One column per picture and one row per method, as in the paper."""
    same = data.finished[data.finished["protocol"] == cell["protocol"]].to_dict("records")
    found = {row["baseline"]: row for row in same if row["baseline"] in ROWS}
    methods = {title: column(data, found[name]) for name, title in ROWS.items() if name in found}
    methods["jfb"] = column(data, cell)
    rows = {"ground truth": Column("", truth(data, [cell["cell_id"]]), {}), **methods}
    indices = sorted(set.intersection(*(set(row.files) for row in rows.values())))[:PICTURES]
    if not indices:
        return None
    # `mosaic` draws one column per Column. Here a column is a picture, and its files are those of the methods.
    turned = [Column("", {k: row.files[index] for k, row in enumerate(rows.values())}, {}) for index in indices]
    size = pixels(turned[0].files[0]).shape[0]
    image, pitch, width = mosaic(turned, list(range(len(rows))), size)
    height, left = image.shape[0] / width, 1.3
    canvas = Canvas(figsize=(left + len(indices), height))
    axes = canvas.add_axes((0, 0, 1, 1), xlim=(-left, len(indices)), ylim=(height, 0))
    axes.set_axis_off()
    axes.imshow(image, extent=(0, len(indices), height, 0), aspect="auto", interpolation="none")
    for place, (title, row) in enumerate(rows.items()):
        middle = (place * pitch / width) + (1 - LINE) / 2
        axes.text(-0.08, middle, title, ha="right", va="center", fontsize=8)
        for across, index in enumerate(indices):
            if index in row.psnr:
                below = (place * pitch + width) / width
                axes.text(across + 0.5, below, f"{row.psnr[index]:.2f}", ha="center", va="top", fontsize=7.5)
    caption = (
        f"Test pictures {', '.join(map(str, indices))}, with standard PSNR in dB below each. jfb is {cell['label']}, "
        f"seed {cell['seed']}."
    )
    return render("table-1", "The paper's Table 1: the same pictures by each method", caption, canvas)
