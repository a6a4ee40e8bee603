"""How training scales with the number of ranks: strong (same global batch) and weak (same batch per rank)."""

import math
import re
from functools import cache
from typing import Any

import pandas as pd

from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.figures import Figure, colours, facets, finish, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table
from analysis.sections.cost import MIB, timed_steps
from launch.planning import methods

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
    """One row per study and number of ranks; a study's cells differ only in that number and, if weak, in the batch."""
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
    """Speedup and efficiency, for grids that have world_size as an axis."""
    figures = drawn(lambda: speedup_against_ranks(scaling_frame(data)))
    return Section("Scaling with the number of ranks", scaling_table(data), (), figures)


def scaling_table(data: GridData) -> Table:
    """The scaling table of a grid, which has rows if world_size is an axis."""
    frame = scaling_frame(data)
    notes = [
        "Under strong scaling the global batch is constant, and each rank gets a smaller part of it. Under weak "
        "scaling the batch per rank is constant, and the global batch grows. Speedup is images/s relative to the "
        "fewest ranks. Parallel efficiency is the speedup divided by the increase in ranks.",
        "Images/s is the global batch divided by the mean time of the steps that the table of costs counts, that is, "
        "all their samples over all their seconds; the time of a step is that of its slowest rank. Exposed sync is the "
        "backward time with synchronization minus that without, from the probe. nfe imbalance is the number of "
        "evaluations of the busiest rank over the mean of all ranks; it limits the speedup, as ranks wait for each "
        "other.",
    ]
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("scaling", "Scaling with the number of ranks", frame, COLUMNS, caption, command, notes)


def _study(data: GridData, cells: pd.DataFrame, mode: str) -> str:
    """A key that is equal for the methods of one study."""
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
    """Add speedup and efficiency relative to the row with the fewest ranks."""
    fewest = study[0]
    for row in study:
        row["speedup"] = row["throughput"] / fewest["throughput"]
        row["parallel_efficiency"] = row["speedup"] * fewest["world_size"] / row["world_size"]
    return study


def speedup_against_ranks(scaling: pd.DataFrame) -> Figure | None:
    """Measured and ideal speedup against the number of ranks, one facet for strong and one for weak scaling."""
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
    caption = "Images per second relative to the fewest ranks; strong: same global batch, weak: same batch per rank."
    return render("scaling", "Scaling with the number of ranks", caption, canvas)
