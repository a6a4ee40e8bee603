"""Which cells of a launched grid a command is about: GRID or GRID/CELL, and --where field=value."""

import json
from collections.abc import Sequence

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder
from launch.planning.grid import Assignment, matches, parse_assignment
from launch.planning.runs_folder import Runs


def select(runs: Runs, name: str, where: Sequence[str]) -> list[CellFolder]:
    """The cells of GRID, or those whose id starts with CELL in GRID/CELL, that match every field=value,value.

    Raises:
        ConfigError: no such grid, or no cell is left.
    """
    grid, _, prefix = name.partition("/")
    wanted = [parse_assignment(text) for text in where]
    found = [folder for folder in runs.cells_of(grid) if folder.cell_id.startswith(prefix)]
    if wanted:
        found = [folder for folder in found if _matches(folder, wanted)]
    if not found:
        raise ConfigError(f"cell: nothing in {grid} matches {' '.join([*([prefix] if prefix else []), *where])}")
    return found


def _matches(folder: CellFolder, wanted: Sequence[Assignment]) -> bool:
    cell = json.loads((folder.path / "cell.json").read_text(encoding="utf-8"))
    return all(any(matches(cell, {one.field: value}) for value in one.values) for one in wanted)
