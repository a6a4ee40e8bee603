"""The accuracy of each backprop method's gradient, and how contractive the maps are at which it is computed."""

import math
from functools import cache
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, colours, facets, finish, log_ticks, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table

GRADIENT_COLUMNS = (
    Column("label", "Trained method", rank=1),
    Column("step", "Step", "d", rank=1),
    Column("gradient", "Gradient", rank=1),
    Column("cosine", "Cosine", ".4f", best="max", rank=2),
    Column("relative_error", "Relative error", ".1e", best="min", rank=2),
    Column("norm_ratio", "Norm ratio", ".3f", rank=3),
    Column("evaluations", "Evaluations", "d", rank=5),
    Column("products", "Products", "d", rank=4),
    Column("status", "Reference"),
    Column("pictures", "Pictures"),
    Column("forward_residual", "Reference's forward residual", ".1e"),
    Column("adjoint_residual", "Reference's adjoint residual", ".1e"),
)
CONTRACTION_COLUMNS = (
    Column("label", "Method", rank=1),
    Column("start_radius", "Radius at step 0", ".3f", rank=7),
    Column("spectral_radius", "Spectral radius", ".3f", rank=1),
    Column("dominant_eigenvalue", "Dominant eigenvalue", "+.3f", rank=2),
    Column("dominant_imaginary", "Imaginary part", ".3f", rank=8),
    Column("eigenvalue_residual", "Its residual", ".1e", rank=9),
    Column("norm", "|J|", ".2f", rank=3),
    Column("depth", "K", "d", rank=6),
    Column("psnr_k", "PSNR at K, dB", ".2f", rank=4),
    Column("psnr_2k", "at 2 K", ".2f", rank=5),
    Column("psnr_10k", "at 10 K", ".2f", rank=4),
    Column("drift", "10 K over K, dB", "+.2f", rank=3),
    Column("psnr_moved", "Score moves by, dB", "+.3f", rank=4),
    Column("residual_k", "Residual at K", ".1e"),
    Column("residual_10k", "at 10 K", ".1e"),
)


@cache
def gradient_frame(data: GridData) -> pd.DataFrame:
    """One row per trained method, measured step and compared gradient, averaged over seeds."""
    rows = []
    for (method, step), found in _with_method(data, data.fidelities).groupby(["method", "step"], sort=False):
        first = {name: found[name].iloc[0] for name in ("label", "model", "step", "method")}
        for gradient, seeds in found.groupby("gradient", sort=False, dropna=False):
            rows.append(
                {
                    **first,
                    "group": f"{method} {step}",
                    "gradient": None if gradient is None or gradient != gradient else gradient,
                    **{name: " / ".join(dict.fromkeys(seeds[name])) for name in ("status", "pictures")},
                    **{name: _mean(seeds[name]) for name in _GRADIENT_NUMBERS},
                    **{name: _worst(seeds[name]) for name in ("forward_residual", "adjoint_residual")},
                }
            )
    return pd.DataFrame(rows)


_GRADIENT_NUMBERS = ("cosine", "relative_error", "norm_ratio", "evaluations", "products")


@cache
def contraction_frame(data: GridData) -> pd.DataFrame:
    """One row per trained method that was measured after its training, for its worst picture and seed."""
    measured = _with_method(data, data.contractions)
    final = measured[measured["psnr_at"].map(bool)] if len(measured) else measured
    rows = []
    for method, seeds in final.groupby("method", sort=False):
        before = measured[(measured["method"] == method) & (measured["step"] == 0)]
        rows.append({**_contraction(seeds), "start_radius": _worst(before["spectral_radius"].explode())})
    return pd.DataFrame(rows)


def contraction_section(data: GridData) -> Section:
    """How contractive the trained maps are."""
    return Section("Contraction", contraction_table(data), without_rows="Nothing measured.")


def gradient_section(data: GridData) -> Section:
    """The error of each gradient, and its cost."""
    nothing = "Not measured: no finished cell has the field fidelity."
    figures = drawn(
        lambda: fidelity_against_cost(gradient_frame(data)),
        lambda: fidelity_against_eigenvalue(_with_method(data, data.picture_gradients)),
    )
    return Section("Gradient fidelity", gradient_table(data), (), figures, nothing)


def gradient_table(data: GridData) -> Table:
    """The table of gradients."""
    frame = gradient_frame(data)
    notes = [
        "Gradients are compared with the exact one on a fixed batch of validation pictures. The exact gradient is "
        "computed in float64 with forward and adjoint residuals of at most 1e-10: Anderson, then Newton steps, then "
        "GMRES. A picture is left out if one of its two solves does not get there. If all are left out, there is no "
        "reference, and the table shows no numbers.",
        "Methods have their default parameters and start at the exact fixed point, except that unrolled and shine find "
        "their own; unrolled computes the exact gradient of another loss, that of K plain steps. implicit-tight solves "
        "its adjoint equation to 1e-8. as trained is the cell's own method with its parameters and its forward solve "
        "from the initial state. For random methods, the table shows a single draw.",
        "Evaluations are forward passes through T. Products are backward passes, including the one to the parameters.",
    ]
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("fidelity", "Gradient fidelity", frame, GRADIENT_COLUMNS, caption, command, notes, best_within="group")


def contraction_table(data: GridData) -> Table:
    """The table of contraction."""
    frame = contraction_frame(data)
    notes = [
        "J is the Jacobian of the map, including damping, at the end of the solve of a validation picture; the table "
        "shows the picture with the largest spectral radius among all seeds. Estimates are by Arnoldi's method. The "
        "norm is a lower bound; the dominant eigenvalue is as accurate as its residual |J^T v - mu v| / |mu|.",
        "A map converges near its fixed point if the spectral radius is below 1; the theory of jfb requires |J| below "
        "1. An eigenvalue close to -1 is an oscillation, which damping removes.",
        "PSNR at K is that of the state after K plain iterations, without acceleration, where K is the maximum number "
        "of evaluations per reconstruction in training. A model that is worse at 10 K is an unrolled network that was "
        "stopped early, not a fixed point.",
    ]
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("contraction", "Contraction", frame, CONTRACTION_COLUMNS, caption, command, notes)


def _with_method(data: GridData, rows: pd.DataFrame) -> pd.DataFrame:
    """The measurements of finished cells, with the names of their methods, in the grid's order."""
    cells = data.trained[["cell_id", "method", "label", "model"]].reset_index(drop=True)
    return cells.merge(rows, on="cell_id")


def _contraction(seeds: pd.DataFrame) -> dict[str, Any]:
    """One row of the table: lists have one entry per picture, and the picture that converges worst is shown."""
    pictures = seeds.explode(list(_LISTS), ignore_index=True)
    worst = pictures.iloc[int(pictures["spectral_radius"].astype(float).argmax())]
    k, two, ten = sorted(seeds["psnr_at"].iloc[0])
    psnr, residual = pd.DataFrame(list(seeds["psnr_at"])).mean(), pd.DataFrame(list(seeds["residual_at"])).max()
    return {
        **{name: worst[name] for name in ("label", "method")},
        **{name: _worst(pd.Series([worst[name]])) for name in _LISTS if name != "norm"},
        "norm": _worst(pictures["norm"]),
        "depth": k,
        "psnr_k": psnr[k],
        "psnr_2k": psnr[two],
        "psnr_10k": psnr[ten],
        "drift": psnr[ten] - psnr[k],
        "psnr_moved": _furthest(seeds["psnr_moved"]),
        "residual_k": _worst(residual[[k]]),
        "residual_10k": _worst(residual[[ten]]),
    }


def _furthest(lists: "pd.Series[Any]") -> float:
    """The number farthest from zero in any of the lists; nan if all are empty."""
    return max((number for numbers in lists for number in numbers), key=abs, default=math.nan)


_LISTS = ("norm", "spectral_radius", "dominant_eigenvalue", "dominant_imaginary", "eigenvalue_residual")


def _mean(values: "pd.Series[Any]") -> float:
    known = values.dropna().astype(float)
    return float(known.mean()) if len(known) else math.nan


def _worst(values: "pd.Series[Any]") -> float:
    known = values.dropna().astype(float)
    return float(known.max()) if len(known) else math.nan


def fidelity_against_cost(gradients: pd.DataFrame) -> Figure | None:
    """The error of each gradient against the passes through T that it takes, one facet per model."""
    drawn = gradients[gradients["relative_error"].notna()] if len(gradients) else gradients
    if drawn.empty:
        return None
    canvas, axes_of = _errors(drawn.assign(x=drawn["evaluations"] + drawn["products"]), markersize=7)
    for axes in axes_of.values():
        axes.set_xscale("log")
        log_ticks(axes.xaxis)
    finish(canvas, axes_of, "Passes through T, forward and back", "Relative error")
    caption = (
        "Error of each method's gradient against the exact one; down and to the left is better. Hollow points were "
        "measured before training. Passes do not include the solve for the fixed point if the method starts from it."
    )
    return render("fidelity-cost", "Gradient fidelity against cost", caption, canvas)


def fidelity_against_eigenvalue(pictures: pd.DataFrame) -> Figure | None:
    """The error of each picture's gradient against the dominant eigenvalue at its fixed point, one facet per model."""
    drawn = pictures[pictures["relative_error"].notna() & pictures["dominant_eigenvalue"].notna()]
    if drawn.empty:
        return None
    canvas, axes_of = _errors(drawn.assign(x=drawn["dominant_eigenvalue"]), markersize=4)
    for axes in axes_of.values():
        axes.axvline(1, color="0.6", linewidth=0.8, zorder=0)
    finish(canvas, axes_of, "Dominant eigenvalue of the map at the fixed point", "Relative error")
    caption = (
        "Error of the gradient of each picture's loss against the exact one, one point per picture. Hollow points were "
        "measured before training. To the right of the line the fixed point repels, and no series converges there, "
        "however many terms it has."
    )
    return render("fidelity-eigenvalue", "Gradient fidelity against the dominant eigenvalue", caption, canvas)


def _errors(drawn: pd.DataFrame, markersize: float) -> tuple[Canvas, dict[str, Axes]]:
    """Relative errors against the column x, one facet per model and one color per gradient; hollow before training."""
    canvas, axes_of = facets(list(drawn["model"].unique()))
    colour_of = colours(drawn["gradient"])
    for (model, gradient, start), rows in drawn.groupby(["model", "gradient", drawn["step"] == 0], sort=False):
        axes, colour = axes_of[str(model)], colour_of[str(gradient)]
        axes.plot(
            rows["x"], rows["relative_error"].clip(lower=1e-12), "o", color=colour, markersize=markersize,
            markerfacecolor="none" if start else colour, label=None if start else str(gradient),
        )  # fmt: skip
        axes.set(title=model, yscale="log")
    return canvas, axes_of
