"""How training scales with the number of ranks: strong (same global batch) and weak (same batch per rank)."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure as Canvas

from analysis.inference import bootstrap_ratio
from analysis.reading import conditions as context
from analysis.reading.load import GridData
from analysis.rendering.figures import WIDTH, Figure, colours, facets, finish, render
from analysis.rendering.section import Section, drawn
from analysis.rendering.tables import Column, Table
from analysis.sections.cost import MIB, timed_steps
from launch.planning import methods

PARTS = {
    "compute": ("forward_solve", "adjoint_solve", "parameter_gradient"),
    "waiting": ("waiting",),
    "exposed_communication": ("gradient_synchronization",),
    "other": ("data", "optimizer", "other"),
}
"""What the phases of a step are added up to; together they are the whole step."""
PART_COLOURS = dict(zip(PARTS, ("#44AA99", "#DDDDDD", "#882255", "#DDCC77"), strict=True))


def _shown(key: str, label: str, spec: str, rank: int, scale: float = 1.0) -> Column:
    return Column(key, label, spec, interval=(f"{key}_low", f"{key}_high"), scale=scale, rank=rank)


COLUMNS = (
    Column("label", "Method", rank=1),
    Column("mode", "Scaling", rank=2),
    Column("world_size", "Ranks", "d", rank=3),
    Column("global_batch_size", "Global batch", "d", rank=4),
    _shown("throughput", "Images/s", ",.1f", 5),
    _shown("speedup", "Speedup", ".2f", 6),
    _shown("parallel_efficiency", "Parallel efficiency", ".2f", 7),
    _shown("compute", "Compute, ms", ",.1f", 8, 1e3),
    _shown("waiting", "Waiting, ms", ",.1f", 9, 1e3),
    _shown("exposed_communication", "Exposed communication, ms", ",.1f", 10, 1e3),
    _shown("imbalance", "Imbalance", ".2f", 11),
    Column("nfe_imbalance", "nfe imbalance", ".2f", rank=12),
    Column("gradient_bytes", "Gradient, MiB", ".2f", scale=MIB),
)


@cache
def scaling_frame(data: GridData) -> pd.DataFrame:
    """One row per study and number of ranks; a study's cells differ only in that number and, if weak, in the batch."""
    rows = []
    for mode in ("strong", "weak"):
        for study, groups in studies(data, mode):
            fewest = step_parts(data, groups[0])
            for cells in groups:
                row = {"label": short_label(cells), "study": study, "mode": mode}
                rows.append(row | _measured(data, cells, groups[0], fewest))
    return pd.DataFrame(rows)


def section(data: GridData) -> Section:
    """Speedup and efficiency, for grids that have world_size as an axis."""
    figures = drawn(lambda: speedup_against_ranks(scaling_frame(data)), lambda: parts_of_a_step(scaling_frame(data)))
    return Section("Scaling with the number of ranks", scaling_table(data), (), figures)


def scaling_table(data: GridData) -> Table:
    """The scaling table of a grid, which has rows if world_size is an axis."""
    frame = scaling_frame(data)
    notes = [
        "Under strong scaling the global batch is constant, and each rank gets a smaller part of it. Under weak "
        "scaling the batch per rank is constant, and the global batch grows. Speedup is images/s relative to the "
        "fewest ranks. Parallel efficiency is the speedup divided by the increase in ranks.",
        "Times are means over the steps that the table of costs counts; the time of a step is that of its slowest "
        "rank, and its parts are means over ranks. Compute is solves and gradient, waiting is for slower ranks, and "
        "exposed communication is the reduction of gradients that no computation hides. Imbalance is compute and "
        "waiting over compute; nfe imbalance is the number of evaluations of the busiest rank over the mean of all.",
        "In brackets: 95 % intervals, from a bootstrap over blocks of neighboring steps. They say how well this run "
        "knows its mean, and not how another machine or seed would differ.",
    ]
    if len(frame) and frame["throughput"].isna().any():
        notes.append(
            "Rows without times have more ranks than their machine has processors. Their ranks take turns, so they "
            "tell how evaluations are distributed, but not how long a step takes."
        )
    caption, command = context.caption(data, data.trained), context.command(data.declared)
    return Table("scaling", "Scaling with the number of ranks", frame, COLUMNS, caption, command, notes)


def studies(data: GridData, mode: str) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """The key of each study, and its cells by number of ranks, fewest first; a study has at least two numbers."""
    found: dict[str, list[pd.DataFrame]] = {}
    for _, cells in data.trained.groupby("method", sort=False):
        found.setdefault(_study(data, cells, mode), []).append(cells)
    for study, groups in found.items():
        if len({int(cells["world_size"].iloc[0]) for cells in groups}) > 1:
            yield study, sorted(groups, key=lambda cells: int(cells["world_size"].iloc[0]))


def short_label(cells: pd.DataFrame) -> str:
    """The label of a method without its ranks and batch, which tables show in columns of their own."""
    return re.sub(r" (world_size|global_batch_size)=\d+", "", str(cells["label"].iloc[0]))


def step_parts(data: GridData, cells: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each timed step and of its parts, by seed and step; nan if ranks had to share processors."""
    steps = timed_steps(data, cells)
    seeds = steps["cell_id"].map(cells.set_index("cell_id")["seed"])
    columns = {part: steps[[f"seconds_{phase}" for phase in phases]].sum(axis=1) for part, phases in PARTS.items()}
    columns |= {"total": steps["seconds_total"]}
    frame = pd.DataFrame(columns).set_axis(pd.MultiIndex.from_arrays([seeds, steps["step"]]))
    return frame * math.nan if shares_processors(data, cells) else frame


def shares_processors(data: GridData, cells: pd.DataFrame) -> bool:
    """Whether more ranks than processors ran on a host without an accelerator; then seconds mean nothing."""
    if set(cells["device"]) != {"cpu"}:
        return False
    known = data.environments[data.environments["cell_id"].isin(cells["cell_id"])]
    ranks, processors = (
        pd.to_numeric(known.loc[known["key"] == key, "value"]) for key in ("ranks_on_host", "processors")
    )
    return bool(len(ranks) and len(processors) and ranks.max() > processors.min())


def _study(data: GridData, cells: pd.DataFrame, mode: str) -> str:
    """A key that is equal for the methods of one study."""
    config = data.configs[cells["cell_id"].iloc[0]]
    same = methods.key(config, without=("seed", "world_size", "global_batch_size"))
    batch = config["global_batch_size"]
    return f"{same} {batch if mode == 'strong' else batch / config['world_size']}"


def _measured(data: GridData, cells: pd.DataFrame, base: pd.DataFrame, fewest: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one row, relative to the steps of the study's fewest ranks."""
    parts = step_parts(data, cells)
    ranks, batch = int(cells["world_size"].iloc[0]), int(cells["global_batch_size"].iloc[0])
    growth, more = batch / base["global_batch_size"].iloc[0], ranks / base["world_size"].iloc[0]
    common = fewest.index.intersection(parts.index)
    speedup = _ratio(fewest.loc[common, "total"], parts.loc[common, "total"])
    probes = data.probes[data.probes["cell_id"].isin(cells["cell_id"])]
    ones = np.ones(len(parts))
    return {
        "world_size": ranks,
        "global_batch_size": batch,
        **_interval("throughput", _ratio(batch * ones, parts["total"])),
        **_interval("speedup", [end * growth for end in speedup]),
        **_interval("parallel_efficiency", [end * growth / more for end in speedup]),
        **{key: end for part in PARTS for key, end in _interval(part, _ratio(parts[part], ones)).items()},
        **_interval("imbalance", _ratio(parts["compute"] + parts["waiting"], parts["compute"])),
        "nfe_imbalance": timed_steps(data, cells)["nfe_imbalance"].mean(),
        "gradient_bytes": float(probes["gradient_bytes"].mean()) if len(probes) else math.nan,
    }


def _ratio(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> tuple[float, float, float]:
    """A ratio of means and its interval; without an interval if there is nothing to vary."""
    above, below = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if not above.any() or np.isnan([*above, *below]).any() or np.array_equal(above, below):
        ratio = float(above.mean() / below.mean()) if len(above) else math.nan
        return ratio, math.nan, math.nan
    return bootstrap_ratio(above, below)


def _interval(name: str, ends: Sequence[float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def speedup_against_ranks(scaling: pd.DataFrame) -> Figure | None:
    """Measured and ideal speedup against the number of ranks, one facet for strong and one for weak scaling."""
    timed = scaling.dropna(subset="speedup") if len(scaling) else scaling
    if timed.empty:
        return None
    canvas, axes_of = facets(list(timed["mode"].unique()))
    colour_of = colours(timed["label"])
    for mode, axes in axes_of.items():
        rows = timed[timed["mode"] == mode]
        ranks = sorted(rows["world_size"].unique())
        axes.plot(ranks, [count / ranks[0] for count in ranks], ":", color="0.5", label="ideal")
        for (label, _), study in rows.groupby(["label", "study"], sort=False):
            ends = [study["speedup"] - study["speedup_low"], study["speedup_high"] - study["speedup"]]
            axes.errorbar(
                study["world_size"], study["speedup"], yerr=np.abs(np.nan_to_num(ends, posinf=0.0)), fmt="o-",
                capsize=3, color=colour_of[str(label)], label=str(label),
            )  # fmt: skip
        axes.set(title=mode, xticks=ranks)
    finish(canvas, axes_of, "Ranks", "Speedup")
    caption = (
        "Images per second relative to the fewest ranks, with 95 % intervals; strong: same global batch, weak: same "
        "batch per rank. Lines of one color are the same method with different batches."
    )
    return render("scaling", "Scaling with the number of ranks", caption, canvas)


def parts_of_a_step(scaling: pd.DataFrame) -> Figure | None:
    """What a step's time consists of, for each method, batch and number of ranks."""
    timed = scaling.dropna(subset="compute") if len(scaling) else scaling
    if timed.empty:
        return None
    rows = timed.drop_duplicates(["label", "world_size", "global_batch_size", "compute"])
    rows = rows.sort_values(["label", "global_batch_size", "world_size"], kind="stable", ignore_index=True)
    names = [
        f"{row['label']}: {row['world_size']} x {row['global_batch_size'] // row['world_size']}"
        for row in rows.to_dict("records")
    ]
    canvas = Canvas(figsize=(WIDTH, 1.2 + 0.27 * len(rows)), layout="constrained")
    axes, left = canvas.subplots(), np.zeros(len(rows))
    for part, colour in PART_COLOURS.items():
        widths = 1e3 * rows[part].to_numpy(dtype=float)
        axes.barh(range(len(rows)), widths, left=left, color=colour, height=0.75, label=part.replace("_", " "))
        left += widths
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlabel="Mean milliseconds in one training step")
    sns.despine(canvas, left=True)
    axes.tick_params(axis="y", length=0)
    canvas.legend(loc="outside upper center", ncols=len(PARTS), frameon=False)
    caption = "Each row has its number of ranks and the samples per rank; parts are means over ranks."
    return render("scaling-phases", "What a step consists of, by ranks and batch", caption, canvas)
