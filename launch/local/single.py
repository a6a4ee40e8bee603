"""Runs one cell without a scheduler, in this process or as the ranks of torchrun."""

import os
import sys
from pathlib import Path

from harness.config.cells import ANYWHERE, Site, in_order
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellBusy, CellFolder
from launch.planning.changes import declared_grid
from launch.planning.grid import plan
from launch.planning.runs_folder import Runs
from launch.planning.selection import find_cell, the_one


def run_alone(runs: Runs, name: str, overrides: list[str]) -> str:
    """Run a cell and return its final state.

    If torchrun started this process, it is one rank of the cell. Otherwise a cell of several ranks replaces this
    process with torchrun.

    Raises:
        ConfigError: there is no such cell, or the cell that it needs is not finished.
    """
    folder = _find(runs, name, overrides)
    world_size = folder.cell().world_size
    for needed in folder.prerequisites():
        if needed.status().state != "finished":
            before = f"python -m launch run {needed.cell_id}{runs.option}"
            raise ConfigError(f"cell: {folder.cell_id} needs a cell that is not finished; first: {before}")
    ranks = int(os.environ.get("WORLD_SIZE", world_size))
    if ranks != world_size:
        if int(os.environ.get("RANK", 0)):
            raise SystemExit(2)  # the first rank says it
        hint = f"torchrun --nproc-per-node {world_size}"
        raise ConfigError(f"world_size: {folder.cell_id} needs {world_size} ranks (got {ranks}); use {hint}")
    if world_size > 1 and "WORLD_SIZE" not in os.environ:
        sys.stdout.flush()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
        command = ["-m", "launch", "run", folder.cell_id, "--runs", str(runs.root)]
        os.execv(sys.executable, [sys.executable, *torchrun, *command])
    try:
        return run_here(folder)
    except CellBusy as busy:
        raise ConfigError(f"cell: {busy}") from None


def run_here(folder: CellFolder, site: Site = ANYWHERE) -> str:
    """Run a cell on this rank and return its final state."""
    from harness.run.cell import run_cell
    from harness.run.distributed import RankPosition

    return run_cell(Path(folder.path), RankPosition.from_environment(), site=site)


def _find(runs: Runs, name: str, overrides: list[str]) -> CellFolder:
    """Find a cell by its id or as GRID/CELL; a cell of a grid that has not been launched is planned first."""
    grid, slash, prefix = name.rpartition("/")
    if not slash or (not overrides and runs.is_launched(grid)):
        return find_cell(runs, name)
    cells = {cell.cell_id: cell for cell in plan(declared_grid(grid, overrides)[0])}
    chosen = cells[the_one(prefix, cells, grid)]
    for cell in in_order(chosen):
        runs.cell(cell.cell_id).plan(cell)
    return runs.cell(chosen.cell_id)
