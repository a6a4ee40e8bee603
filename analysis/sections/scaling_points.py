"""What the steps of a scaling study needed, as the model of a step reads it."""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd

from analysis.inference.step_model import NO_LINK, Kind, Link, Point, expected_slowest, fit_link
from analysis.reading.load import GridData
from analysis.sections.cost import timed_steps
from analysis.sections.scaling import scaling_frame, short_label, step_parts


@dataclass(frozen=True)
class Measured:
    """The cells of one method on one number of ranks, and what their steps needed."""

    label: str
    map: str
    method: str
    ranks: int
    batch: int
    """Samples per rank."""
    evaluations: list[tuple[int, ...]]
    """By timed step and sample."""
    products: list[tuple[int, ...]]
    cut: int | None
    """Evaluations at which a pool cuts a step that continues."""
    limits: tuple[int, int]
    """Largest numbers of evaluations and products."""
    unrolled: bool
    gradient_bytes: float
    seconds: float
    """Mean over timed steps; nan if ranks had to share processors."""

    @property
    def as_recorded(self) -> Point:
        """The work of the slowest sample that was recorded, averaged over steps."""
        evaluations, products = (
            float(np.mean([max(counts, default=0) for counts in steps])) for steps in (self.evaluations, self.products)
        )
        return self._point(self.ranks, self.batch, evaluations, products, self.seconds)

    def on(self, ranks: int, batch: int, unseen: bool = False) -> Point:
        """The work expected of the slowest sample on that many ranks; `unseen` ones may reach the solver's limit."""
        continues = [self.cut is not None and max(counts) <= self.cut for counts in self.evaluations]
        limits = self.limits if unseen and not self.unrolled else (None, None)
        evaluations = _by_kind(self.evaluations, continues, (limits[0], None))
        products = _by_kind(self.products, continues, (limits[1], limits[1]))
        slowest = [expected_slowest(kinds, ranks * batch) for kinds in (evaluations, products)]
        return self._point(ranks, batch, slowest[0], slowest[1])

    def _point(self, ranks: int, batch: int, evaluations: float, products: float, seconds: float = math.nan) -> Point:
        """Unrolled steps are differentiated one by one; other methods add one that carries the gradient."""
        counts = (evaluations, evaluations) if self.unrolled else (evaluations + 1, products + 1)
        return Point(ranks, batch, *counts, self.gradient_bytes, seconds)


def _by_kind(steps: list[tuple[int, ...]], continues: list[bool], limits: tuple[int | None, int | None]) -> list[Kind]:
    """The steps that solve in full and those that continue, each with its limit; steps without counts are left out."""
    return [
        Kind([counts for counts, later in zip(steps, continues, strict=True) if counts and later == kind], limit)
        for kind, limit in zip((False, True), limits, strict=True)
    ]


@cache
def measured(data: GridData) -> tuple[Measured, ...]:
    """Every method of a scaling study whose records count the evaluations of each sample."""
    if scaling_frame(data).empty or "evaluations" not in data.steps:
        return ()
    groups = (cells for _, cells in data.trained.groupby("method", sort=False))
    return tuple(one for cells in groups if (one := _measured(data, cells)) is not None)


def _measured(data: GridData, cells: pd.DataFrame) -> Measured | None:
    steps, first = timed_steps(data, cells), cells.iloc[0]
    steps = steps[steps["evaluations"].map(len) > 0]
    if steps.empty:
        return None
    config = data.configs[first["cell_id"]]
    limits = config.get("solver.max_steps"), config.get("backprop.solver.max_steps")
    unrolled = first["backprop"] == "unrolled"
    probes = data.probes[data.probes["cell_id"].isin(cells["cell_id"])]
    return Measured(
        label=short_label(cells),
        map=str(first["model"]),
        method=str(first["backprop"]),
        ranks=int(first["world_size"]),
        batch=int(first["global_batch_size"]) // int(first["world_size"]),
        evaluations=list(steps["evaluations"]),
        products=list(steps["products"]),
        cut=None if unrolled else config.get("pool.max_steps"),
        limits=(int(limits[0] or 0), int(limits[1] or 0)),
        unrolled=unrolled,
        gradient_bytes=float(probes["gradient_bytes"].mean()) if len(probes) else 0.0,
        seconds=float(step_parts(data, cells)["total"].mean()),
    )


def link_of(data: GridData) -> Link:
    """The latency and bandwidth of this machine's all-reduces; without a sweep, communication takes no time."""
    if data.sweep is None or not data.sweep.times:
        return NO_LINK
    times = data.sweep.times
    return fit_link([t.ranks for t in times], [t.bytes for t in times], [t.seconds for t in times])


def pooled(found: tuple[Measured, ...], source: Measured) -> Measured:
    """A method with the counts of all its cells on that number of ranks, whatever their batch."""
    alike = [one for one in found if one.label == source.label and one.ranks == source.ranks]
    evaluations = [counts for one in alike for counts in one.evaluations]
    products = [counts for one in alike for counts in one.products]
    return replace(source, evaluations=evaluations, products=products)
