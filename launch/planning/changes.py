"""A grid as the command line declares it, with overrides, and what these changed, as a dry run shows it."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter

from harness.config.catalog.data import DataSpec
from harness.config.cells import Cell, TrainCell
from harness.config.dotted import get, with_field
from launch.planning.grid import Grid, matches, read_grid
from launch.planning.overrides import Assignment, override, parse_assignment


def declared_grid(source: str, overrides: Iterable[str]) -> tuple[Grid, list[Assignment]]:
    """The grid of a name or file with overrides, and these overrides with what follows from them.

    Raises:
        ConfigError: the grid or an override is wrong.
    """
    grid, changes = read_grid(source), [parse_assignment(text) for text in overrides]
    changes += _fitting_split(grid, changes)
    return override(grid, changes), changes


def _fitting_split(grid: Grid, changes: Sequence[Assignment]) -> list[Assignment]:
    """The default validation split, if the one that the grid chose for its own pictures takes over half of others."""
    fields = {change.field for change in changes}
    if not fields & {"data.name", "data.root"} or fields & {"data", "data.validation_images"}:
        return []
    declared = override(grid, changes).base.get("data", {})
    if isinstance(root := get(declared, "root"), str):
        declared = with_field(declared, "root", os.path.expanduser(root))
    try:
        data: DataSpec = TypeAdapter(DataSpec).validate_python(declared)
        counts = data.counts()
    except ValueError:
        return []  # planning names the mistake
    if counts is None or data.validation_images is None or 2 * data.validation_images <= counts.train:
        return []
    return [Assignment("data.validation_images", [None])]


def changed_fields(changes: Iterable[Assignment], cells: Sequence[Cell]) -> list[str]:
    """For each overridden field, its values and the number of training cells that have them."""
    trained = [cell.to_json() for cell in cells if isinstance(cell, TrainCell)]
    fields = [change for change in changes if change.field not in ("name", "baselines")]
    return [f"changed: {_written(one)} in {_count(one, trained)} of {len(trained)} training cells" for one in fields]


def _count(change: Assignment, cells: Sequence[dict[str, Any]]) -> int:
    """The number of cells in which the field has one of the values; a choice counts whatever its other fields are."""
    wanted = [_name(value) for value in _values(change)]
    return sum(any(matches(cell, {change.field: value}) for value in wanted) for cell in cells)


def _values(change: Assignment) -> list[Any]:
    values = change.values
    is_one_list = len(values) == 1 and isinstance(values[0], list)
    return [*values, *values[0]] if is_one_list else values


def _name(value: Any) -> Any:
    return value.get("name", value) if isinstance(value, dict) else value


def _written(change: Assignment) -> str:
    return f"{change.field} = {', '.join('null' if one is None else str(one) for one in change.values)}"
