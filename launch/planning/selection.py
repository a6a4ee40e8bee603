"""Selects the cells that a command applies to: CELL, GRID or GRID/CELL, and --where field=value."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.config.cells import BaselineCell, PretrainCell, TrainCell
from harness.config.dotted import flatten
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder
from launch.planning.grid import matches
from launch.planning.overrides import Assignment, parse_assignment
from launch.planning.runs_folder import Runs

LISTED = 20
"""Maximum number of cells that an error message lists."""


def select(runs: Runs, name: str, where: Sequence[str]) -> list[CellFolder]:
    """The cells of GRID that match every field=value,value; GRID/CELL keeps only ids that start with CELL.

    Raises:
        ConfigError: the grid has not been launched, or no cell matches.
    """
    grid, _, prefix = name.partition("/")
    wanted = [parse_assignment(text) for text in where]
    found = [folder for folder in runs.cells_of(grid) if folder.cell_id.startswith(prefix)]
    if wanted:
        found = _matching(found, wanted)
    if not found:
        raise ConfigError(f"cell: nothing in {grid} matches {' '.join([*([prefix] if prefix else []), *where])}")
    return found


def find_cell(runs: Runs, name: str) -> CellFolder:
    """Find a planned cell by its id or the beginning of it; GRID/CELL searches only a launched grid.

    Raises:
        ConfigError: no cell or more than one cell matches.
    """
    grid, slash, prefix = name.rpartition("/")
    cell_ids = [folder.cell_id for folder in runs.cells_of(grid)] if slash else runs.cell_ids()
    return runs.cell(the_one(prefix, cell_ids, grid or str(runs.root)))


def the_one(prefix: str, cell_ids: Iterable[str], place: str) -> str:
    """The cell_id that equals `prefix`, or the only one that starts with it.

    Raises:
        ConfigError: no cell or more than one cell matches; the message names `place`, where the search took place.
    """
    known = list(cell_ids)
    found = [cell_id for cell_id in known if cell_id.startswith(prefix)]
    if prefix in found or len(found) == 1:
        return prefix if prefix in found else found[0]
    choices = found or known
    listed = ", ".join(choices[:LISTED]) + (f" and {len(choices) - LISTED} more" if len(choices) > LISTED else "")
    raise ConfigError(f"cell: {prefix!r} matches {len(found)} cells of {place} (choose from: {listed or 'none'})")


def _matching(folders: Sequence[CellFolder], wanted: Sequence[Assignment]) -> list[CellFolder]:
    """The cells that match; one whose cell.json is damaged does not, and standard error says so.

    Raises:
        ConfigError: no cell has one of the fields.
    """
    cells = {}
    for folder in folders:
        try:
            cells[folder] = folder.fields()
        except ConfigError as error:
            print(f"left out: {error}", file=sys.stderr)
    for one in wanted:
        _require_field(one.field, cells.values())
    return [folder for folder, cell in cells.items() if _matches(cell, wanted)]


def _require_field(field: str, cells: Iterable[Mapping[str, Any]]) -> None:
    head, dot, _ = field.partition(".")
    kinds = (TrainCell, BaselineCell, PretrainCell)
    if not any(head in kind.model_fields for kind in kinds):
        known = ", ".join(dict.fromkeys(name for kind in kinds for name in kind.model_fields))
        raise ConfigError(f"--where: no field {head!r}; known: {known}")
    leaves = {name for cell in cells if isinstance(cell.get(head), Mapping) for name, _ in flatten({head: cell[head]})}
    if dot and not any(f"{leaf}.".startswith(f"{field}.") for leaf in leaves):
        known = ", ".join(sorted(leaves)) or "none"
        raise ConfigError(f"--where: no cell has a field {field!r}; known: {known}")


def _matches(cell: Mapping[str, Any], wanted: Sequence[Assignment]) -> bool:
    return all(any(matches(cell, {one.field: value}) for value in one.values) for one in wanted)
