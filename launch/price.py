"""What a plan costs before it runs: rank-hours from finished cells of the same shape.

Cells have the same shape if they compute the same for as long: all fields agree but the seed, the optimiser and the
schedule. A cell that differs in nothing but its number of steps is priced by the step.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import Cell
from launch.runs import Runs

SHAPELESS = ("seed", "optimizer", "schedule", "operations")


@dataclass(frozen=True)
class Shape:
    """What decides how long a cell takes."""

    fields: str
    """Everything but the number of steps."""
    steps: int

    @staticmethod
    def of(cell: Mapping[str, Any]) -> "Shape":
        """The shape of a cell's JSON."""
        fields = {key: value for key, value in cell.items() if key not in SHAPELESS}
        fields["data"] = {key: value for key, value in fields["data"].items() if key != "root"}
        steps = fields.pop("steps", 0)
        if cell["kind"] == "pretrain":
            steps = fields["pretraining"]["steps"]
            fields["pretraining"] = None
        return Shape(json.dumps(fields, sort_keys=True), steps)


@dataclass(frozen=True)
class Price:
    """An estimate for some cells."""

    seconds: dict[str, float]
    """Wall time of each cell whose shape is known."""
    rank_hours: float
    """Of those: ranks times time, which is GPU-hours where every rank has a GPU."""
    unknown: list[str]
    """Cells of a shape of which none has finished yet."""

    def finish_hours(self, at_once: int) -> float:
        """Expected time to the end with so many cells at once, not counting the queue."""
        longest = max(self.seconds.values(), default=0.0)
        return max(longest, sum(self.seconds.values()) / at_once) / 3600


def price(cells: Sequence[Cell], known: Iterable[tuple[Shape, float]]) -> Price:
    """Price cells by the median of what finished ones of their shape took, in seconds."""
    whole: dict[Shape, list[float]] = {}
    by_step: dict[str, list[float]] = {}
    for shape, seconds in known:
        whole.setdefault(shape, []).append(seconds)
        if shape.steps:
            by_step.setdefault(shape.fields, []).append(seconds / shape.steps)
    estimates = {}
    for cell in cells:
        shape = Shape.of(cell.to_json())
        if shape in whole:
            estimates[cell.cell_id] = statistics.median(whole[shape])
        elif shape.fields in by_step:
            estimates[cell.cell_id] = statistics.median(by_step[shape.fields]) * shape.steps
    rank_seconds = sum(estimates[cell.cell_id] * cell.world_size for cell in cells if cell.cell_id in estimates)
    unknown = [cell.cell_id for cell in cells if cell.cell_id not in estimates]
    return Price(estimates, rank_seconds / 3600, unknown)


def finished_shapes(runs: Runs) -> list[tuple[Shape, float]]:
    """The shape and the wall time of every finished cell of a runs directory."""
    found = []
    for path in (runs.root / "cells").glob("*/status.json"):
        status = json.loads(path.read_text(encoding="utf-8"))
        if status["state"] == "finished" and status.get("seconds"):
            cell = json.loads(path.with_name("cell.json").read_text(encoding="utf-8"))
            found.append((Shape.of(cell), status["seconds"]))
    return found


def describe_price(priced: Price, at_once: int) -> str:
    """The estimate in a line, and how to get one for what is unknown."""
    lines = []
    if priced.seconds:
        hours = f"{priced.finish_hours(at_once):.2g} h with {at_once} at once"
        lines.append(
            f"about {priced.rank_hours:.2g} rank-hours (GPU-hours on GPUs) for {len(priced.seconds)} cells, {hours}; "
            "from what finished cells of their shape took"
        )
    if priced.unknown:
        lines.append(
            f"{len(priced.unknown)} cells have a shape of which none has finished: to price them, launch the same with "
            "name=probe steps=5 pretraining.steps=5 seed=0 before"
        )
    return "\n".join(lines)
