"""Runs one cell without a scheduler, in this process or as the ranks of torchrun."""

import os
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from harness.config.cells import Cell, in_order
from harness.config.errors import ConfigError
from harness.config.settings import ANYWHERE, Site
from harness.config.trust import packages_of, require_trust
from harness.records.cell_folder import CellBusy, CellFolder
from launch.planning.changes import declared_grid
from launch.planning.grid import plan
from launch.planning.runs_folder import Runs
from launch.planning.selection import find_cell, the_one


def run_alone(runs: Runs, name: str, overrides: list[str], trusted: Collection[str] = ()) -> str:
    """Run a cell and return its final state.

    A cell that is read from the runs directory may only name classes of the `trusted` packages.

    If torchrun started this process, it is one rank of the cell. Otherwise a cell of several ranks replaces this
    process with torchrun.

    Raises:
        ConfigError: there is no such cell, it names a class of another package, or the cell that it needs is not
            finished.
    """
    folder, planned = _find(runs, name, overrides)
    trusted = {*trusted, *packages_of(planned)}
    cell = folder.cell()
    require_trust(cell, trusted)
    for needed in folder.prerequisites():
        if needed.status().state != "finished":
            before = f"python -m launch run {needed.cell_id}{runs.option}"
            raise ConfigError(f"cell: {folder.cell_id} needs a cell that is not finished; first: {before}")
    ranks = int(os.environ.get("WORLD_SIZE", cell.world_size))
    if ranks != cell.world_size:
        if int(os.environ.get("RANK", 0)):
            raise SystemExit(2)  # the first rank says it
        hint = f"torchrun --nproc-per-node {cell.world_size}"
        raise ConfigError(f"world_size: {folder.cell_id} needs {cell.world_size} ranks (got {ranks}); use {hint}")
    if cell.world_size > 1 and "WORLD_SIZE" not in os.environ:
        sys.stdout.flush()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cell.world_size)]
        command = ["-m", "launch", "run", folder.cell_id, "--runs", str(runs.root)]
        trust = [word for package in sorted(trusted) for word in ("--trust", package)]
        os.execv(sys.executable, [sys.executable, *torchrun, *command, *trust])
    try:
        return run_here(folder, trusted=trusted)
    except CellBusy as busy:
        raise ConfigError(f"cell: {busy}") from None


def run_here(folder: CellFolder, site: Site = ANYWHERE, trusted: Collection[str] = (), threads: int = 0) -> str:
    """Run a cell, which may name classes of the `trusted` packages, on this rank and return its final state.

    On a CPU it uses this many threads; 0 means an equal share of the processors.
    """
    from harness.run.cell import run_cell
    from harness.run.distributed import RankPosition

    position = replace(RankPosition.from_environment(), threads=threads)
    return run_cell(Path(folder.path), position, site=site, trusted=trusted)


def _find(runs: Runs, name: str, overrides: list[str]) -> tuple[CellFolder, list[Cell]]:
    """Find a cell by its id or as GRID/CELL; a cell of a grid that has not been launched is planned first.

    Returns the cell's directory, and the cell itself if it was planned here.
    """
    grid, slash, prefix = name.rpartition("/")
    if not slash or (not overrides and runs.is_launched(grid)):
        return find_cell(runs, name), []
    cells = {cell.cell_id: cell for cell in plan(declared_grid(grid, overrides)[0])}
    chosen = cells[the_one(prefix, cells, grid)]
    planned = list(in_order(chosen))
    runs.require_same_folders(planned)
    for cell in planned:
        runs.cell(cell.cell_id).plan(cell)
    return runs.cell(chosen.cell_id), [chosen]
