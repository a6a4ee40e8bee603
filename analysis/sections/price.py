"""The rank-hours that a grid was expected to need when it was launched, against those that it used."""

import math
from typing import Any

import pandas as pd

from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table

COLUMNS = (
    Column("label", "Method", rank=1),
    Column("cells", "Cells", "d", rank=5),
    Column("estimated", "Estimated, rank-h", ".3g", rank=2),
    Column("used", "Used, rank-h", ".3g", rank=3),
    Column("ratio", "Used / estimated", ".2f", rank=4),
    Column("unestimated_cells", "Cells without estimate", "d", rank=6),
    Column("unestimated_used", "Used by those, rank-h", ".3g", rank=7),
)
NAMED = 10
"""Maximum number of cells without an estimate that a note names."""


def price_frame(data: GridData) -> pd.DataFrame:
    """One row per method, in the grid's order, and one for all; empty if no finished cell had an estimate."""
    cells = _priced(data)
    if not cells["estimate"].notna().any():
        return pd.DataFrame()
    rows = [_row(str(some["label"].iloc[0]), some) for _, some in cells.groupby("method", sort=False)]
    return pd.DataFrame([{**row, "group": "method"} for row in rows] + [{**_row("all", cells), "group": "all"}])


def section(data: GridData) -> Section:
    """Estimated against used rank-hours."""
    return Section("Estimated and used rank-hours", price_table(data))


def price_table(data: GridData) -> Table:
    """The table of estimates."""
    frame = price_frame(data)
    notes = [
        "Only finished cells count. Rank-hours are ranks times the wall time of all attempts, which is GPU-hours if "
        "each rank has a GPU. The estimate is the first one, made before the cell ran, from finished cells of its "
        "shape.",
    ]
    without = list(data.finished["cell_id"][_priced(data)["estimate"].isna()])
    if without:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        notes.append(
            "Cells without an estimate had finished before this grid was launched, or no cell of their shape had: "
            f"{', '.join(without[:NAMED])}{more}."
        )
    caption, command = context.caption(data, data.finished), context.command(data.declared)
    return Table("price", "Estimated and used rank-hours", frame, COLUMNS, caption, command, notes)


def _priced(data: GridData) -> pd.DataFrame:
    """The finished cells with their estimated and used rank-hours."""
    ranks = data.finished["world_size"].astype(float)
    estimate = data.finished["cell_id"].map(dict(data.estimates)).astype(float)
    used = data.finished["spent"].astype(float)
    return data.finished.assign(estimate=estimate * ranks / 3600, used=used * ranks / 3600)


def _row(label: str, cells: pd.DataFrame) -> dict[str, Any]:
    known = cells["estimate"].notna()
    estimated, used = (float(cells[name][known].sum()) if known.any() else math.nan for name in ("estimate", "used"))
    return {
        "label": label,
        "cells": int(known.sum()),
        "estimated": estimated,
        "used": used,
        "ratio": used / estimated if estimated else math.nan,
        "unestimated_cells": int((~known).sum()),
        "unestimated_used": float(cells["used"][~known].sum()) if (~known).any() else math.nan,
    }
