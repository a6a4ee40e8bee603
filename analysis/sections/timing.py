"""The cost of a step relative to jfb, from timing cells, in which the methods take turns step by step."""

import math
from functools import cache
from typing import Any

import pandas as pd

from analysis.inference import bootstrap_ratio
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.section import Section
from analysis.rendering.tables import Column, Table
from harness.records.events import honest_name

TITLE = "Time of a step, methods taking turns"
COLUMNS = (
    Column("label", "Method", rank=1),
    Column("seconds_median", "Step, ms", ",.1f", best="min", scale=1e3, rank=2),
    Column("seconds_mean", "Step mean, ms", ",.1f", best="min", scale=1e3, rank=6),
    Column("ratio", "Step over jfb", ".2f", interval=("ratio_low", "ratio_high"), rank=3),
    Column("nfe", "nfe", ".1f", rank=4),
    Column("adjoint_nfe", "Adjoint products", ".1f", rank=5),
    Column("rounds", "Rounds", "d", rank=7),
    Column("world_size", "Ranks", "d", rank=8),
)


@cache
def timing_frame(data: GridData) -> pd.DataFrame:
    """One row per method of every finished timing cell, in the grid's order."""
    cells = data.finished[data.finished["kind"] == "timing"]
    return pd.DataFrame([row for cell in cells.to_dict("records") for row in _rows(data, cell)])


def section(data: GridData) -> Section:
    """Times of methods that took turns."""
    return Section(TITLE, timing_table(data))


def timing_table(data: GridData) -> Table:
    """The table of interleaved times."""
    cells = data.finished[data.finished["kind"] == "timing"]
    notes = [
        "In each round, every method takes one training step on the same batch and the same ranks, in a random order, "
        "so that whatever slows the machine down slows all of them down. Each method trains a model of its own, and "
        "all start from the same denoiser. The warm-up by jfb and the first solve of each batch of a pool are not "
        "timed. The time of a step is that of its slowest rank from end to end.",
        "Step over jfb is the mean step time divided by that of jfb, with its 95 % interval from a bootstrap over "
        "blocks of neighboring rounds. The interval is about these models, this machine and this load; it does not "
        "contain the differences between seeds. nfe and adjoint products are means per picture.",
    ]
    caption, command = context.caption(data, cells), context.command(data.declared)
    frame = timing_frame(data)
    return Table("timing", TITLE, frame, COLUMNS, caption, command, notes, best_within="group")


def _rows(data: GridData, cell: dict[Any, Any]) -> list[dict[str, Any]]:
    """The methods of one timing cell, in its order."""
    rounds = data.rounds[data.rounds["cell_id"] == cell["cell_id"]]
    by_method = {place: steps.set_index("step") for place, steps in rounds.groupby("place")}
    jfb = [steps["seconds"] for steps in by_method.values() if steps["backprop"].iloc[0] == "jfb"]
    return [_row(cell, steps, jfb[0] if jfb else None) for steps in by_method.values()]


def _row(cell: dict[Any, Any], steps: pd.DataFrame, jfb: "pd.Series[float] | None") -> dict[str, Any]:
    ratio, low, high = (math.nan,) * 3 if jfb is None else bootstrap_ratio(steps["seconds"], jfb[steps.index])
    method = honest_name(steps["method"].iloc[0], steps["adjoint_unconverged"].astype(float).mean())
    return {
        "label": f"{cell['model']} {method} {cell['variant']}".strip(),
        "group": cell["cell_id"],
        "seconds_median": steps["seconds"].median(),
        "seconds_mean": steps["seconds"].mean(),
        "ratio": ratio,
        "ratio_low": low,
        "ratio_high": high,
        "nfe": steps["nfe"].mean(),
        "adjoint_nfe": steps["adjoint_nfe"].mean(),
        "rounds": len(steps),
        "world_size": cell["world_size"],
        "device": cell["device"],
        "commit": cell["commit"],
        "timed": steps["timed"].iloc[0],
    }
