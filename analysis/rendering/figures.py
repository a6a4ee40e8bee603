"""The figures of a report. Each takes tidy frames and gives a `Figure`, or None where there is nothing to draw."""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.reading.load import PHASES, GridData
from analysis.sections.accuracy import reference

DOTS_PER_INCH = 160
WIDTH = 10.0
"""Inches."""
PHASE_COLOURS = ("#332288", "#88CCEE", "#DDCC77", "#44AA99", "#882255", "#CC6677")
"""Paul Tol's muted scheme: told apart by colour-blind readers, and not the colours of the methods."""
MARKERS = "osD^vPX*<>"
LINES = {"total-variation": (0, (5, 2)), "tikhonov": (0, (1, 1.5))}
"""Baselines that are drawn as horizontal lines."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure."""

    name: str
    title: str
    caption: str
    inches: float
    """Its width."""
    png: bytes
    pdf: bytes


def grid_figures(
    data: GridData, accuracy: pd.DataFrame, cost: pd.DataFrame, gradients: pd.DataFrame, scaling: pd.DataFrame
) -> list[Figure]:
    """Every figure for which there are numbers."""
    with style():
        drawn = [
            cost_against_quality(data, accuracy, cost),
            phase_breakdown(cost),
            fidelity_against_cost(gradients),
            speedup_against_ranks(scaling),
            loss_curves(data),
            validation_curves(data),
            search_curves(data),
        ]
    return [figure for figure in drawn if figure is not None]


def speedup_against_ranks(scaling: pd.DataFrame) -> Figure | None:
    """Speedup against the number of ranks, beside the ideal, one facet a kind of study."""
    if scaling.empty:
        return None
    canvas, facets = _facets(list(scaling["mode"].unique()))
    colours = _colours(scaling["label"])
    for mode, axes in facets.items():
        rows = scaling[scaling["mode"] == mode]
        ranks = sorted(rows["world_size"].unique())
        axes.plot(ranks, [count / ranks[0] for count in ranks], ":", color="0.5", label="ideal")
        for (label, _), study in rows.groupby(["label", "study"], sort=False):
            axes.plot(study["world_size"], study["speedup"], "o-", color=colours[str(label)], label=str(label))
        axes.set(title=mode, xticks=ranks)
    _finish(canvas, facets, "Ranks", "Speedup")
    caption = "Images per second over those of the fewest ranks; strong: same global batch, weak: same batch a rank."
    return render("scaling", "Scaling with the number of ranks", caption, canvas)


def loss_curves(data: GridData) -> Figure | None:
    """Training loss against step, one facet a model."""
    steps = data.steps.merge(_trained(data), on="cell_id", suffixes=("", "_cell"))
    steps = steps[np.isfinite(steps["loss"].astype(float)) & (steps["loss"] > 0)] if len(steps) else steps
    if steps.empty:
        return None
    window = max(1, int(steps["step"].max()) // 15)
    canvas, facets = _facets(list(steps["model"].unique()))
    colours = _colours(steps["variant"])
    for model, axes in facets.items():
        for variant, rows in steps[steps["model"] == model].groupby("variant", sort=False):
            for _, cell in rows.groupby("cell_id", sort=False):
                axes.plot(cell["step"], cell["loss"], color=colours[str(variant)], alpha=0.25, linewidth=0.8)
            mean = rows.groupby("step")["loss"].mean().rolling(window, min_periods=1, center=True).mean()
            dot = "o" if len(mean) == 1 else ""
            axes.plot(mean.index, mean, color=colours[str(variant)], marker=dot, linewidth=1.8, label=str(variant))
        axes.set(title=model, yscale="log")
        _log_ticks(axes.yaxis)
    _finish(canvas, facets, "Training step", loss_label(data, steps["cell_id"].unique()))
    seeds = "mean over seeds, " if data.cells["seed"].nunique() > 1 else ""
    caption = f"Loss of each training batch (faint) and its running mean over {window} steps ({seeds}bold)."
    return render("loss", "Training loss", caption + _unfinished(data), canvas)


def loss_label(data: GridData, cell_ids: Iterable[str]) -> str:
    """What the steps of some trained cells record; without its kind where they were trained on several."""
    kinds = {data.configs[cell_id]["loss"].upper() for cell_id in cell_ids}
    return f"Training loss ({kinds.pop()})" if len(kinds) == 1 else "Training loss"


def validation_curves(data: GridData) -> Figure | None:
    """PSNR on validation pictures against step, one facet a model."""
    scores = data.evaluations[data.evaluations["split"] == "validation"]
    scores = scores.groupby(["cell_id", "step"], sort=False)["psnr"].mean().reset_index()
    scores = scores.merge(_trained(data), on="cell_id", suffixes=("", "_cell"))
    if scores.empty:
        return None
    canvas, facets = _facets(list(scores["model"].unique()))
    colours = _colours(scores["variant"])
    for model, axes in facets.items():
        for variant, rows in scores[scores["model"] == model].groupby("variant", sort=False):
            for _, cell in rows.groupby("cell_id", sort=False):
                axes.plot(cell["step"], cell["psnr"], color=colours[str(variant)], alpha=0.25, linewidth=0.8)
            mean = rows.groupby("step")["psnr"].mean()
            axes.plot(mean.index, mean, "o-", color=colours[str(variant)], markersize=4, label=str(variant))
        _reference_lines(axes, data, "validation", scores["protocol"])
        axes.set(title=model)
    _finish(canvas, facets, "Training step", "Validation PSNR (dB)")
    caption = "Mean standard PSNR on validation pictures; step 0 is the pretrained denoiser plugged in."
    return render("validation", "PSNR during training", caption + _unfinished(data), canvas)


def cost_against_quality(data: GridData, accuracy: pd.DataFrame, cost: pd.DataFrame) -> Figure | None:
    """What a gradient takes against what the trained method reaches."""
    if cost.empty or cost["seconds_total_mean"].isna().all():
        return None
    both = cost.merge(accuracy[["method", "psnr", "psnr_seed_std", "protocol"]], on="method")
    colours = _colours(both["variant"])
    markers = {str(model): MARKERS[k % len(MARKERS)] for k, model in enumerate(both["model"].unique())}
    canvas = Canvas(figsize=(WIDTH, 4.6), layout="constrained")
    axes = canvas.subplots()
    for row in both.to_dict("records"):
        error = None if math.isnan(row["psnr_seed_std"]) else row["psnr_seed_std"]
        axes.errorbar(
            row["seconds_total_mean"], row["psnr"], yerr=error, marker=markers[row["model"]], markersize=9,
            color=colours[row["variant"]], markeredgecolor="white", linestyle="none",
        )  # fmt: skip
    for model, marker in markers.items():
        axes.plot([], [], marker=marker, color="0.4", linestyle="none", markersize=8, label=model)
    for variant, colour in colours.items():
        axes.plot([], [], color=colour, linewidth=6, solid_capstyle="butt", label=variant)
    _reference_lines(axes, data, "test", both["protocol"])
    axes.set(xlabel="Mean time of a training step (s)", ylabel="Test PSNR (dB)")
    axes.set_xlim(left=0)
    sns.despine(canvas)
    canvas.legend(loc="outside right upper", frameon=False)
    caption = "Up and to the left is better. Marker: model; colour: backprop method."
    return render("cost-quality", "Cost against quality", caption, canvas)


def phase_breakdown(cost: pd.DataFrame) -> Figure | None:
    """Where the time of a training step goes."""
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
    caption = "Means of each phase on its slowest rank. Number: mean step time over that of the same model by jfb."
    return render("phases", "Where a step's time goes", caption, canvas)


def fidelity_against_cost(gradients: pd.DataFrame) -> Figure | None:
    """What each gradient is off by against the passes through T that it takes, one facet a model."""
    drawn = gradients[gradients["relative_error"].notna()] if len(gradients) else gradients
    if drawn.empty:
        return None
    canvas, facets = _facets(list(drawn["model"].unique()))
    colours = _colours(drawn["gradient"])
    for model, axes in facets.items():
        for (gradient, start), rows in drawn[drawn["model"] == model].groupby(
            ["gradient", drawn["step"] == 0], sort=False
        ):
            colour = colours[str(gradient)]
            axes.plot(
                rows["evaluations"] + rows["products"], rows["relative_error"].clip(lower=1e-12), "o", color=colour,
                markersize=7, markerfacecolor="none" if start else colour, label=None if start else str(gradient),
            )  # fmt: skip
        axes.set(title=model, xscale="log", yscale="log")
        _log_ticks(axes.xaxis)
    _finish(canvas, facets, "Passes through T, forward and back", "Relative error")
    caption = (
        "Each method's gradient against the exact one, down and to the left being better; hollow: before training. "
        "Passes do not include the solve for the fixed point where the method is given it."
    )
    return render("fidelity-cost", "Gradient fidelity against cost", caption, canvas)


def search_curves(data: GridData) -> Figure | None:
    """What each baseline's search saw."""
    if data.searches.empty:
        return None
    labels = {str(cell_id): str(label) for cell_id, label in data.cells["label"].items()}
    # A facet for each search; methods that plug in one of several denoisers have several searches of one name.
    searches = {
        f"{labels[str(cell_id)]}, {parameter}": rows
        for (cell_id, parameter), rows in data.searches.groupby(["cell_id", "parameter"], sort=False)
    }
    canvas, facets = _facets(list(searches), columns=3, share=False)
    for (label, rows), axes in zip(searches.items(), facets.values(), strict=True):
        ordered = rows.sort_values("candidate")
        chosen = ordered[ordered["candidate"] == ordered["chosen"]]
        axes.plot(ordered["candidate"], ordered["psnr"], "o-", color="0.45", markersize=4)
        axes.plot(chosen["candidate"], chosen["psnr"], "o", color=sns.color_palette("colorblind")[1], markersize=9)
        axes.set(title=label, xscale="log")
        _log_ticks(axes.xaxis)
    _finish(canvas, facets, "", "Validation PSNR (dB)")
    caption = "Mean PSNR on the validation pictures that each search looks at; the chosen value is marked."
    return render("searches", "Searches of the tuned baselines", caption, canvas)


def render(name: str, title: str, caption: str, canvas: Canvas) -> Figure:
    """The figure as PNG and PDF, without a date so that the same numbers give the same bytes."""
    png, pdf = io.BytesIO(), io.BytesIO()
    # Laid out once: saving would do it twice more for each file, which takes longer than all the drawing.
    canvas.draw_without_rendering()
    canvas.set_layout_engine(None)
    canvas.savefig(png, format="png", dpi=DOTS_PER_INCH)
    canvas.savefig(pdf, format="pdf", dpi=DOTS_PER_INCH, metadata={"CreationDate": None})
    return Figure(name, title, caption, canvas.get_figwidth(), png.getvalue(), pdf.getvalue())


def _trained(data: GridData) -> pd.DataFrame:
    """The trained cells, finished or not, without what their steps also have."""
    cells = data.cells[data.cells["kind"] == "train"]
    return cells[["cell_id", "model", "variant", "state", "protocol"]].reset_index(drop=True)


def _unfinished(data: GridData) -> str:
    drawn = data.missing[data.missing["cell_id"].isin(data.steps["cell_id"])]
    return f" Unfinished: {', '.join(drawn['cell_id'])}." if len(drawn) else ""


def _facets(titles: Sequence[str], columns: int = 2, share: bool = True) -> tuple[Canvas, dict[str, Axes]]:
    """One axes a title, filled row by row."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    canvas = Canvas(figsize=(WIDTH, 0.6 + 2.7 * rows), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False, sharey=share, sharex=share)
    for unused in grid.flat[len(titles) :]:
        unused.set_axis_off()
    return canvas, dict(zip(titles, grid.flat, strict=False))


def _finish(canvas: Canvas, facets: dict[str, Axes], x_label: str, y_label: str) -> None:
    """Labels at the outer axes, and one legend for all facets where they draw several things."""
    sns.despine(canvas)
    entries: dict[str, Any] = {}
    for axes in facets.values():
        place = axes.get_subplotspec()
        assert place is not None
        if place.is_first_col():
            axes.set_ylabel(y_label)
        if place.is_last_row() and x_label:
            axes.set_xlabel(x_label)
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        canvas.legend(entries.values(), entries, loc="outside upper center", ncols=min(5, len(entries)), frameon=False)


def _log_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _colours(variants: "pd.Series[Any]") -> dict[str, Any]:
    """One colour a variant, in the order of their appearance."""
    distinct = [str(variant) for variant in variants.unique()]
    palette = sns.color_palette("colorblind" if len(distinct) <= 10 else "husl", max(2, len(distinct)))
    return dict(zip(distinct, palette, strict=False))


def _reference_lines(axes: Axes, data: GridData, split: str, protocols: "pd.Series[Any]") -> None:
    """The baselines to beat, where all methods drawn have the same ones."""
    if protocols.nunique() != 1:
        return
    for baseline, dashes in LINES.items():
        cells = reference(data, str(protocols.iloc[0]), baseline)
        scores = data.evaluations[data.evaluations["cell_id"].isin(cells["cell_id"])]
        scores = scores[scores["split"] == split]
        if len(scores):
            axes.axhline(scores["psnr"].mean(), color="0.25", linewidth=1.2, linestyle=dashes, label=baseline)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures."""
    with (
        sns.axes_style("ticks"),
        sns.plotting_context("paper", font_scale=1.15),
        mpl.rc_context({"axes.titlesize": "medium", "legend.fontsize": "small", "pdf.fonttype": 42}),
    ):
        yield
