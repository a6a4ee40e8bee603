"""Estimates the rank-hours of a plan before it runs, from finished cells of the same shape or from short probes of it.

    python -m launch grid demo --probe

runs the probes, one for each shape without a finished cell. Only training and the number of test pictures are reduced.
Baselines, denoisers and timing cells run in full, because the grid needs them anyway, and because a trained denoiser
decides how many iterations a solve takes.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from harness.config.cells import Cell, TrainCell, in_order, parse_cell
from harness.records.cell_folder import CellFolder
from launch.planning.runs_folder import Runs
from launch.pricing.timing import Course, Shape, Timing

PROBE_STEPS = 6
"""Minimum number of training steps of a probe, and of its warm-up if it has one: at least two steps of each kind."""
PROBE_PICTURES = 16
"""Maximum number of test pictures of a probe, per rank: two batches of an evaluation."""


@dataclass(frozen=True)
class Finished:
    """A finished cell, from which the price of others is estimated."""

    cell: Cell
    folder: CellFolder
    seconds: float
    """Wall time of all attempts."""

    @cached_property
    def shape(self) -> Shape:
        """The shape of the cell."""
        return Shape.of(self.cell)

    @cached_property
    def timing(self) -> Timing:
        """How long the parts of the cell took, read from its record."""
        return Timing.of(self.cell, self.folder.events())


@dataclass(frozen=True)
class Price:
    """The estimated price of some cells."""

    seconds: dict[str, float]
    """Wall time of each cell whose shape is known."""
    rank_hours: float
    """Ranks times hours, summed over these cells; GPU-hours if every rank has a GPU."""
    unknown: list[Cell]
    """Cells of a shape without a finished cell."""

    def finish_hours(self, at_once: int) -> float:
        """Expected hours until the end with `at_once` cells running at a time, without time in a queue."""
        longest = max(self.seconds.values(), default=0.0)
        return max(longest, sum(self.seconds.values()) / at_once) / 3600


def price(cells: Sequence[Cell], known: Iterable[Finished]) -> Price:
    """Estimate the price of cells from finished ones.

    A cell takes the median time of the finished cells that do exactly the same or, if there are none, a time that is
    computed from the parts of the longest finished cell of its shape.
    """
    whole: dict[Shape, list[float]] = {}
    longest: dict[str, Finished] = {}
    for one in sorted(known, key=lambda one: one.seconds):
        whole.setdefault(one.shape, []).append(one.seconds)
        longest[one.shape.fields] = one
    seconds = {}
    for cell in cells:
        shape = Shape.of(cell)
        if shape in whole:
            seconds[cell.cell_id] = statistics.median(whole[shape])
        elif shape.fields in longest:
            with suppress(ValueError):  # the record is damaged, or a different version of the code wrote it
                seconds[cell.cell_id] = longest[shape.fields].timing.seconds(shape)
    rank_seconds = sum(seconds[cell.cell_id] * cell.world_size for cell in cells if cell.cell_id in seconds)
    return Price(seconds, rank_seconds / 3600, [cell for cell in cells if cell.cell_id not in seconds])


def finished_cells(runs: Runs) -> list[Finished]:
    """Every finished cell of a runs directory that this code can read."""
    found = []
    for path in (runs.root / "cells").glob("*/status.json"):
        folder = CellFolder(path.parent)
        status = folder.status()
        if status.state == "finished" and status.seconds:
            with suppress(ValueError):  # it is damaged, or a different version of the code wrote it
                found.append(Finished(folder.cell(), folder, status.seconds))
    return found


def short_cells(cells: Iterable[Cell]) -> list[Cell]:
    """One cell per shape with its training cut short, each preceded by the denoiser that it starts from."""
    shapes = {Shape.of(cell).fields: cell for cell in reversed(list(cells))}
    chosen = [_shortened(cell) for cell in reversed(shapes.values())]
    return list({cell.cell_id: cell for probe in chosen for cell in in_order(probe)}.values())


def _shortened(cell: Cell) -> Cell:
    """A training cell with few test pictures and a few steps of each kind, since the first of a kind does not count.

    Any other cell, and one that is as short already, is returned unchanged.
    """
    if not isinstance(cell, TrainCell):
        return cell
    course, fields = Course.of(cell), cell.to_json()
    refresh_every = min(2, course.refresh_every)
    turn = course.batches * refresh_every
    part = math.ceil(PROBE_STEPS / turn) * turn
    warm_up = part if course.warm_up else 0
    steps = warm_up + part
    if steps >= cell.steps:
        return cell
    fields |= {"warm_up": warm_up, "steps": steps, "evaluate_every": steps, "tune": None}
    if cell.data.test_images:
        fields["data"]["test_images"] = min(cell.data.test_images, PROBE_PICTURES * cell.world_size)
    if cell.pool:
        fields["pool"] |= {"refresh_every": refresh_every}
    if cell.fidelity:
        fields["fidelity"] |= {"every": None}
    return parse_cell(fields)


def describe_price(priced: Price, at_once: int) -> str:
    """The estimate in one line, and how to get one for the cells that have none."""
    lines = []
    if priced.seconds:
        hours = f"{priced.finish_hours(at_once):.2g} h with {at_once} at once"
        lines.append(
            f"about {priced.rank_hours:.2g} rank-hours (GPU-hours on GPUs) for {len(priced.seconds)} cells, {hours}; "
            "estimated from finished cells of the same shapes"
        )
    if priced.unknown:
        shapes = {Shape.of(cell).fields for cell in priced.unknown}
        lines.append(
            f"no price yet for {len(priced.unknown)} cells of {len(shapes)} shapes without a finished cell; "
            "--probe runs a short cell of each shape"
        )
    return "\n".join(lines)
