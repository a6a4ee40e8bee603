"""Derives the timing cells of a grid from its training cells."""

import json
from collections.abc import Iterable

from harness.config.catalog.backprop import BackpropSpec
from harness.config.catalog.optimization import OptimizerSpec
from harness.config.cells import TIMED_ALIKE, ModelCell, TimedMethod, TimingCell, TrainCell
from harness.config.errors import ConfigError


def timing_cells(steps: int, trained: Iterable[TrainCell]) -> list[TimingCell]:
    """One timing cell for each group of training cells that differ in nothing but what a timing cell compares.

    It holds every backprop method of the group once, with the optimizer of its first cell. The seed, the warm-up and
    the clipping are those of the group's first cell. A group with only one method has nothing to compare.

    Raises:
        ConfigError: no group has two methods.
    """
    groups: dict[str, list[TrainCell]] = {}
    for cell in trained:
        groups.setdefault(_what_they_share(cell), []).append(cell)
    found = [_timing_cell(steps, cells) for cells in groups.values() if len(_methods(cells)) > 1]
    if not found:
        raise ConfigError(
            "timing: no two backprop methods to compare; at least two are needed with the same model, solver and pool "
            f"(got {', '.join(dict.fromkeys(c.backprop.name for cells in groups.values() for c in cells)) or 'none'})"
        )
    return found


def _what_they_share(cell: TrainCell) -> str:
    return json.dumps(cell.model_dump(mode="json", serialize_as_any=True, include=set(TIMED_ALIKE)), sort_keys=True)


def _methods(cells: Iterable[TrainCell]) -> tuple[TimedMethod, ...]:
    """Each backprop method once, in order of appearance."""
    optimizers: dict[BackpropSpec, OptimizerSpec] = {}
    for cell in cells:
        optimizers.setdefault(cell.backprop, cell.optimizer)
    return tuple(TimedMethod(backprop=backprop, optimizer=optimizer) for backprop, optimizer in optimizers.items())


def _timing_cell(steps: int, cells: list[TrainCell]) -> TimingCell:
    shared = {name: getattr(cells[0], name) for name in ModelCell.model_fields if name != "kind"}
    return TimingCell(**shared, methods=_methods(cells), steps=steps)
