"""How training scales with the number of ranks, strong (same global batch) and weak (same batch of each rank)."""

import math
import re
from functools import cache
from typing import Any

import pandas as pd

from analysis.reading import conditions as context
from analysis.reading import methods
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, colours, facets, finish, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table
from analysis.sections.cost import MIB, timed_steps

COLUMNS = (
    Column("label", "Method", rank=1),
    Column("mode", "Scaling", rank=2),
    Column("world_size", "Ranks", "d", rank=3),
    Column("global_batch_size", "Global batch", "d", rank=8),
    Column("throughput", "Images/s", ",.1f", rank=4),
    Column("speedup", "Speedup", ".2f", rank=5),
    Column("parallel_efficiency", "Parallel efficiency", ".2f", rank=6),
    Column("exposed_communication", "Exposed sync, ms", ".1f", scale=1e3, rank=7),
    Column("nfe_imbalance", "nfe imbalance", ".2f", rank=9),
    Column("gradient_bytes", "Gradient, MiB", ".2f", scale=MIB),
)


@cache
def scaling_frame(data: GridData) -> pd.DataFrame:
    """One row for each number of ranks of each study: cells that differ in it, and in a weak study in the batch."""
    rows = []
    for mode in ("strong", "weak"):
        studies: dict[str, list[dict[str, Any]]] = {}
        for _, cells in data.trained.groupby("method", sort=False):
            studies.setdefault(_study(data, cells, mode), []).append(_row(data, cells, mode))
        for study in studies.values():
            if len({row["world_size"] for row in study}) > 1:
                rows += _against_fewest(sorted(study, key=lambda row: int(row["world_size"])))
    return pd.DataFrame(rows)


def section(data: GridData) -> Section:
    """Speedup and efficiency, where world_size is an axis."""
    figures = drawn(lambda: speedup_against_ranks(scaling_frame(data)))
    return Section("Scaling with the number of ranks", scaling_table(data), (), figures)


def scaling_table(data: GridData) -> Table:
    """The scaling table of a grid; it has rows where world_size is an axis."""
    frame = scaling_frame(data)
    notes = [
        "Strong: the global batch stays, each rank gets less of it. Weak: the batch of one rank stays, and the global "
        "batch grows. Speedup: images/s over those of the fewest ranks; parallel efficiency: speedup by that of ranks.",
        "Images/s: global batch over the mean of the steps timed as in the table of costs, which is all their samples "
        "over all their seconds; a step counts its slowest rank. Exposed sync: backward time under synchronisation "
        "less that without it, from the probe. nfe imbalance: evaluations run by the busiest rank over the mean of "
        "all, which limits the speedup where ranks wait for each other.",
    ]
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("scaling", "Scaling with the number of ranks", frame, COLUMNS, caption, command, notes)


def _study(data: GridData, cells: pd.DataFrame, mode: str) -> str:
    """Equal for the methods of one study."""
    config = data.configs[cells["cell_id"].iloc[0]]
    same = methods.key(config, without=("seed", "world_size", "global_batch_size"))
    batch = config["global_batch_size"]
    return f"{same} {batch if mode == 'strong' else batch / config['world_size']}"


def _row(data: GridData, cells: pd.DataFrame, mode: str) -> dict[str, Any]:
    first = cells.iloc[0]
    varying = "world_size" if mode == "strong" else "world_size|global_batch_size"
    steps = timed_steps(data, cells)
    probes = data.probes[data.probes["cell_id"].isin(cells["cell_id"])]
    probed = {
        name: float(probes[name].mean()) if len(probes) else math.nan
        for name in ("exposed_communication", "gradient_bytes")
    }
    return {
        "label": re.sub(rf" ({varying})=\d+", "", first["label"]),
        "study": _study(data, cells, mode),
        "mode": mode,
        "world_size": int(first["world_size"]),
        "global_batch_size": int(first["global_batch_size"]),
        "throughput": first["global_batch_size"] / steps["seconds_total"].mean(),
        "nfe_imbalance": steps["nfe_imbalance"].mean(),
        **probed,
    }


def _against_fewest(study: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speedup and efficiency over the row of the fewest ranks."""
    fewest = study[0]
    for row in study:
        row["speedup"] = row["throughput"] / fewest["throughput"]
        row["parallel_efficiency"] = row["speedup"] * fewest["world_size"] / row["world_size"]
    return study


def speedup_against_ranks(scaling: pd.DataFrame) -> Figure | None:
    """Speedup against the number of ranks, beside the ideal, one facet a kind of study."""
    if scaling.empty:
        return None
    canvas, axes_of = facets(list(scaling["mode"].unique()))
    colour_of = colours(scaling["label"])
    for mode, axes in axes_of.items():
        rows = scaling[scaling["mode"] == mode]
        ranks = sorted(rows["world_size"].unique())
        axes.plot(ranks, [count / ranks[0] for count in ranks], ":", color="0.5", label="ideal")
        for (label, _), study in rows.groupby(["label", "study"], sort=False):
            axes.plot(study["world_size"], study["speedup"], "o-", color=colour_of[str(label)], label=str(label))
        axes.set(title=mode, xticks=ranks)
    finish(canvas, axes_of, "Ranks", "Speedup")
    caption = "Images per second over those of the fewest ranks; strong: same global batch, weak: same batch a rank."
    return render("scaling", "Scaling with the number of ranks", caption, canvas)
