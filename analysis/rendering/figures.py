"""The look of figures: facets, colors, ticks, and rendering as PNG and PDF."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

DOTS_PER_INCH = 160
WIDTH = 10.0
"""Width of a figure in inches."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure."""

    name: str
    title: str
    caption: str
    inches: float
    """The width in inches."""
    png: bytes
    pdf: bytes


def render(name: str, title: str, caption: str, canvas: Canvas) -> Figure:
    """Render a figure as PNG and PDF, without a date, so that the same numbers give the same bytes."""
    png, pdf = io.BytesIO(), io.BytesIO()
    # Compute the layout once: otherwise savefig does it twice per file, which takes longer than all the drawing.
    canvas.draw_without_rendering()
    canvas.set_layout_engine(None)
    canvas.savefig(png, format="png", dpi=DOTS_PER_INCH)
    canvas.savefig(pdf, format="pdf", dpi=DOTS_PER_INCH, metadata={"CreationDate": None})
    return Figure(name, title, caption, canvas.get_figwidth(), png.getvalue(), pdf.getvalue())


def facets(titles: Sequence[str], columns: int = 2, share: bool = True) -> tuple[Canvas, dict[str, Axes]]:
    """One axes per title, filled row by row."""
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    canvas = Canvas(figsize=(WIDTH, 0.6 + 2.7 * rows), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False, sharey=share, sharex=share)
    for unused in grid.flat[len(titles) :]:
        unused.set_axis_off()
    return canvas, dict(zip(titles, grid.flat, strict=False))


def finish(canvas: Canvas, facets: dict[str, Axes], x_label: str, y_label: str) -> None:
    """Label the outer axes, and add one legend for all facets if anything in them has a label."""
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


def log_ticks(axis: Axis) -> None:
    """Put ticks with plain numbers at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def colours(variants: "pd.Series[Any]") -> dict[str, Any]:
    """One color per variant, in the order of appearance."""
    distinct = [str(variant) for variant in variants.unique()]
    palette = sns.color_palette("colorblind" if len(distinct) <= 10 else "husl", max(2, len(distinct)))
    return dict(zip(distinct, palette, strict=False))


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures."""
    with (
        sns.axes_style("ticks"),
        sns.plotting_context("paper", font_scale=1.15),
        mpl.rc_context({"axes.titlesize": "medium", "legend.fontsize": "small", "pdf.fonttype": 42}),
    ):
        yield
