"""What a grid was expected to cost when it was launched, against what it used."""

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
    Column("ratio", "Used over estimate", ".2f", rank=4),
    Column("unestimated_cells", "Cells without estimate", "d", rank=6),
    Column("unestimated_used", "Used by these, rank-h", ".3g", rank=7),
)
NAMED = 10
"""Most cells without estimate that a note names."""


def price_frame(data: GridData) -> pd.DataFrame:
    """One row a method, in the grid's order, and one for all; empty where no finished cell had an estimate."""
    cells = _priced(data)
    if not cells["estimate"].notna().any():
        return pd.DataFrame()
    rows = [_row(str(some["label"].iloc[0]), some) for _, some in cells.groupby("method", sort=False)]
    return pd.DataFrame([{**row, "group": "method"} for row in rows] + [{**_row("all", cells), "group": "all"}])


def section(data: GridData) -> Section:
    """Plan against use."""
    return Section("Estimated and used rank-hours", price_table(data))


def price_table(data: GridData) -> Table:
    """The table of estimates."""
    frame = price_frame(data)
    notes = [
        "Finished cells. Rank-hours: ranks times wall time of all attempts, GPU-hours where each rank has a GPU. The "
        "estimate is the first that was made, before the cell ran, from finished cells of its shape.",
    ]
    without = list(data.finished["cell_id"][_priced(data)["estimate"].isna()])
    if without:
        more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
        notes.append(
            "Without estimate, for they were finished before this grid was launched or none of their shape was: "
            f"{', '.join(without[:NAMED])}{more}."
        )
    caption, command = context.caption(data, data.finished), context.command(data.declared)
    return Table("price", "Estimated and used rank-hours", frame, COLUMNS, caption, command, notes)


def _priced(data: GridData) -> pd.DataFrame:
    """The finished cells with their hours, estimated and used."""
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
