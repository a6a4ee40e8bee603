"""The course of training: loss and validation PSNR against step."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, colours, facets, finish, log_ticks, render
from analysis.rendering.section import Section, drawn
from analysis.sections.comparisons import reference_lines


def section(data: GridData) -> Section:
    """The loss and validation curves."""
    return Section("Training", figures=drawn(lambda: loss_curves(data), lambda: validation_curves(data)))


def loss_curves(data: GridData) -> Figure | None:
    """Training loss against step, one facet per model."""
    steps = data.steps.merge(_trained(data), on="cell_id", suffixes=("", "_cell"))
    steps = steps[np.isfinite(steps["loss"].astype(float)) & (steps["loss"] > 0)] if len(steps) else steps
    if steps.empty:
        return None
    window = max(1, int(steps["step"].max()) // 15)
    canvas, axes_of = facets(list(steps["model"].unique()))
    colour_of = colours(steps["variant"])
    for model, axes in axes_of.items():
        for variant, rows in steps[steps["model"] == model].groupby("variant", sort=False):
            for _, cell in rows.groupby("cell_id", sort=False):
                axes.plot(cell["step"], cell["loss"], color=colour_of[str(variant)], alpha=0.25, linewidth=0.8)
            mean = rows.groupby("step")["loss"].mean().rolling(window, min_periods=1, center=True).mean()
            dot = "o" if len(mean) == 1 else ""
            axes.plot(mean.index, mean, color=colour_of[str(variant)], marker=dot, linewidth=1.8, label=str(variant))
        axes.set(title=model, yscale="log")
        log_ticks(axes.yaxis)
    finish(canvas, axes_of, "Training step", loss_label(data, steps["cell_id"].unique()))
    seeds = "mean over seeds, " if data.cells["seed"].nunique() > 1 else ""
    caption = f"Loss of each training batch (faint) and its running mean over {window} steps ({seeds}bold)."
    return render("loss", "Training loss", caption + _unfinished(data), canvas)


def loss_label(data: GridData, cell_ids: Iterable[str]) -> str:
    """The label of a loss axis; it names the kind of loss if all cells were trained on the same one."""
    kinds = {data.configs[cell_id]["loss"].upper() for cell_id in cell_ids}
    return f"Training loss ({kinds.pop()})" if len(kinds) == 1 else "Training loss"


def validation_curves(data: GridData) -> Figure | None:
    """PSNR on validation pictures against step, one facet per model."""
    scores = data.evaluations[data.evaluations["split"] == "validation"]
    scores = scores.groupby(["cell_id", "step"], sort=False)["psnr"].mean().reset_index()
    scores = scores.merge(_trained(data), on="cell_id", suffixes=("", "_cell"))
    if scores.empty:
        return None
    canvas, axes_of = facets(list(scores["model"].unique()))
    colour_of = colours(scores["variant"])
    for model, axes in axes_of.items():
        for variant, rows in scores[scores["model"] == model].groupby("variant", sort=False):
            for _, cell in rows.groupby("cell_id", sort=False):
                axes.plot(cell["step"], cell["psnr"], color=colour_of[str(variant)], alpha=0.25, linewidth=0.8)
            mean = rows.groupby("step")["psnr"].mean()
            axes.plot(mean.index, mean, "o-", color=colour_of[str(variant)], markersize=4, label=str(variant))
        reference_lines(axes, data, "validation", scores["protocol"])
        axes.set(title=model)
    finish(canvas, axes_of, "Training step", "Validation PSNR (dB)")
    caption = "Mean standard PSNR on validation pictures. Step 0 is the model with the pretrained denoiser plugged in."
    return render("validation", "PSNR during training", caption + _unfinished(data), canvas)


def _trained(data: GridData) -> pd.DataFrame:
    """The training cells, finished or not, with only the columns that identify their methods."""
    cells = data.cells[data.cells["kind"] == "train"]
    return cells[["cell_id", "model", "variant", "state", "protocol"]].reset_index(drop=True)


def _unfinished(data: GridData) -> str:
    drawn = data.missing[data.missing["cell_id"].isin(data.steps["cell_id"])]
    return f" Unfinished: {', '.join(drawn['cell_id'])}." if len(drawn) else ""
