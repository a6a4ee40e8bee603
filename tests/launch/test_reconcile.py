"""A launch under the name of an earlier one: cells that are not in the new plan leave the grid, and that is said."""

from rich.console import Console

from launch.planning.grid import Grid
from launch.planning.profiles import Local
from launch.planning.runs_folder import Runs
from launch.reconcile import launch
from tests.conftest import tiny_cell


def test_cells_that_leave_a_grid_are_counted(runs: Runs) -> None:
    console, grid = Console(record=True), Grid(name="test")
    cells = [tiny_cell(seed=seed) for seed in range(3)]
    runs.write_plan(grid, cells)
    launch(runs, grid, [], Local(), console)
    assert (
        "3 of 3 cells launched as test are not in this plan and leave the grid; name=... keeps" in console.export_text()
    )
    launch(runs, grid, [], Local(), console)
    assert "leave" not in console.export_text()
