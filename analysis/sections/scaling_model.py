"""A model of a step, fitted on some cells of a scaling study and checked on those held out."""

import math
from collections.abc import Callable, Iterator

import pandas as pd

from analysis.inference.step_model import Link, Work, fit_work, predict
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table
from analysis.sections.extrapolation import extrapolation
from analysis.sections.scaling_points import Measured, link_of, measured, pooled


def section(data: GridData) -> Section:
    """The model of a step, for grids with a scaling study whose records count the evaluations of each sample."""
    figures = drawn(lambda: extrapolation(data))
    return Section("Scaling beyond this machine: a model", error_table(data), (), figures)


def held_out_errors(found: tuple[Measured, ...], link: Link) -> pd.DataFrame:
    """Signed relative errors of the model on cells that it was not fitted on, one row per cell and reason.

    Whatever is held out, counts come from the fewest ranks of the same method. For a number of ranks, seconds are
    fitted on the fewest ranks; for a map or a method, on the cells of all others.
    """
    fewest = min(one.ranks for one in found)
    rows = []
    for held_out, known, unknown in _splits(found, fewest):
        work = fit_work([one.as_recorded for one in known], link) if known else None
        for one in unknown:
            source = next((few for few in found if few.label == one.label and few.ranks == fewest), None)
            if source is not None:
                rows.append(
                    {"held_out": held_out, "label": one.label, **_errors(one, pooled(found, source), work, link)}
                )
    return pd.DataFrame(rows)


def _splits(found: tuple[Measured, ...], fewest: int) -> Iterator[tuple[str, list[Measured], list[Measured]]]:
    """What is held out, the cells that seconds are fitted on, and those held out."""
    timed = [one for one in found if not math.isnan(one.seconds)]
    for ranks in sorted({one.ranks for one in found} - {fewest}):
        few = [one for one in timed if one.ranks == fewest]
        yield f"{ranks} ranks", few, [one for one in found if one.ranks == ranks]
    kinds: list[tuple[str, Callable[[Measured], str]]] = [
        ("map", lambda one: one.map), ("method", lambda one: one.method),
    ]  # fmt: skip
    for kind, of in kinds:
        values = list(dict.fromkeys(map(of, timed)))
        for value in values if len(values) > 1 else []:
            known, unknown = [o for o in timed if of(o) != value], [o for o in timed if of(o) == value]
            yield f"{kind} {value}", known, unknown


def _errors(one: Measured, source: Measured, work: Work | None, link: Link) -> dict[str, float]:
    expected, recorded = source.on(one.ranks, one.batch), one.as_recorded
    seconds = predict(expected, work, link) if work else math.nan
    return {
        "seconds_error": seconds / one.seconds - 1,
        "evaluations_error": expected.evaluations / recorded.evaluations - 1,
        "products_error": expected.products / recorded.products - 1,
    }


def _range(key: str, label: str) -> Column:
    return Column(key, label, "+.1f", interval=(f"{key}_low", f"{key}_high"), scale=100)


COLUMNS = (
    Column("held_out", "Held out", rank=1),
    Column("cells", "Cells", "d", rank=2),
    _range("seconds_error", "Step time, %"),
    _range("evaluations_error", "Evaluations of the slowest sample, %"),
    _range("products_error", "Its products, %"),
)


def error_table(data: GridData) -> Table:
    """How far the model is off where it was not fitted."""
    found = measured(data)
    errors = held_out_errors(found, link_of(data)) if found else pd.DataFrame()
    rows = []
    for held_out, group in errors.groupby("held_out", sort=False) if len(errors) else []:
        row: dict[str, object] = {"held_out": held_out, "cells": len(group)}
        for key in ("seconds_error", "evaluations_error", "products_error"):
            row |= {key: group[key].mean(), f"{key}_low": group[key].min(), f"{key}_high": group[key].max()}
        rows.append(row)
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("scaling-model", "Errors of the model", pd.DataFrame(rows), COLUMNS, caption, command, _notes(data))


def _notes(data: GridData) -> list[str]:
    link = link_of(data)
    swept = (
        f"Latency ({link.latency * 1e6:.0f} us per message) and bandwidth ({link.bandwidth / 1e9:.2g} GB/s) are fitted "
        f"to all-reduces by {data.sweep.backend} on {data.sweep.processors} processors, as rings."
        if data.sweep is not None
        else "No all-reduce was timed on this machine (python -m launch doctor --collectives), so that communication "
        "counts as nothing in these errors."
    )
    return [
        "Predicted over measured, minus one: the mean over cells, and in brackets the smallest and the largest. "
        "Counts come from the cells on the fewest ranks, and those of the slowest sample are expected maxima of draws "
        "from them. A number of ranks is predicted from fewer ranks, a map or a method from the seconds of the others.",
        swept,
        "With more ranks than processors, only counts are checked, because ranks that take turns have no meaningful "
        "time.",
    ]
