"""Brings a grid from what is declared to finished: what is done is skipped, what was interrupted resumes."""

from collections import Counter

from rich.console import Console, Group
from rich.table import Table

from harness.config import Cell, ConfigError, PretrainCell, TrainCell
from launch.cluster import Profile, Slurm
from launch.grid import Grid
from launch.runs import Runs
from launch.status import read_rows, table


def launch(runs: Runs, grid: Grid, cells: list[Cell], profile: Profile, console: Console) -> int:
    """Plan and run; the exit code: 0 where every cell is finished or sent to a scheduler, else 1.

    Raises:
        ConfigError: the cells do not fit the cluster.
    """
    runs.require_space()
    if isinstance(profile, Slurm):
        from launch.enqueue import enqueue

        enqueue(runs, grid, cells, profile, console)
        console.print(f"python -m launch status {grid.name} --watch")
        return 0
    if profile.executor == "debug" and any(cell.world_size > 1 for cell in cells):
        raise ConfigError("world_size: --cluster debug runs one rank; add world_size=1")
    runs.write_plan(grid, cells)
    folders = [runs.cell(cell.cell_id) for cell in cells]
    unfinished = [folder for folder in folders if folder.status().state != "finished"]
    console.print(f"{grid.name}: {len(folders)} cells, {len(folders) - len(unfinished)} finished before")
    if unfinished and profile.executor == "debug":
        from launch.alone import run_here

        for folder in unfinished:
            run_here(folder)
    elif unfinished:
        from launch.submit import run_locally

        run_locally(runs, grid.name, unfinished, profile, console)
    console.print(table(read_rows(folders)))
    return 0 if all(folder.status().state == "finished" for folder in folders) else 1


def describe(runs: Runs, grid: Grid, cells: list[Cell]) -> Group:
    """What a launch would do: the cells, their count and an estimate of the work."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("cell", "state", "ranks", "steps", "evaluations of T, at most"):
        shown.add_column(column, no_wrap=True)
    states: Counter[str] = Counter()
    work = 0
    for cell in cells:
        state = runs.cell(cell.cell_id).status().state
        states[state] += 1
        evaluations = _evaluations(cell)
        work += 0 if state == "finished" else evaluations
        steps = str(_steps(cell)) if _steps(cell) else ""
        shown.add_row(cell.cell_id, state, str(cell.world_size), steps, f"{evaluations:,}" if evaluations else "")
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return Group(shown, f"{grid.name}: {len(cells)} cells ({counts}); at most {work:,} evaluations of T left to run")


def _steps(cell: Cell) -> int:
    if isinstance(cell, TrainCell):
        return cell.steps
    return cell.pretraining.steps if isinstance(cell, PretrainCell) else 0


def _evaluations(cell: Cell) -> int:
    """Evaluations of the network per picture in training: the solver's limit, and a gradient counted as three."""
    per_step = cell.solver.max_steps + 3 if isinstance(cell, TrainCell) else 3
    batch = 0 if not isinstance(cell, TrainCell | PretrainCell) else cell.global_batch_size
    return _steps(cell) * per_step * batch
