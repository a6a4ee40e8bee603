"""A launch under the name of an earlier one: cells that are not in the new plan leave the grid, and that is said."""

from pathlib import Path

import pytest
from rich.console import Console

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus
from launch.planning.grid import Grid
from launch.planning.profiles import Local, Profile, Slurm
from launch.planning.runs_folder import Runs
from launch.reconcile import describe, launch
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


def test_neither_a_launch_nor_a_dry_run_takes_up_cells_of_another_folder(runs: Runs, tmp_path: Path) -> None:
    here, there = (tiny_cell(data={"name": "celeba", "root": str(tmp_path / name)}) for name in ("here", "there"))
    runs.cell(here.cell_id).plan(here)
    runs.cell(here.cell_id).write_status(CellStatus(state="finished"))
    for take_up in (describe, launch):
        with pytest.raises(ConfigError, match=r"^data\.root: "):
            take_up(runs, Grid(name="test"), [there], Local(), *([Console()] if take_up is launch else []))
    assert not runs.is_launched("test")


@pytest.mark.parametrize("profile", [Local(), Slurm(executor="slurm")])
def test_nothing_is_launched_where_others_can_write(profile: Profile, runs: Runs) -> None:
    runs.root.mkdir()
    runs.root.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by other users"):
        launch(runs, Grid(name="test"), [tiny_cell()], profile, Console())
    assert not list(runs.root.iterdir())
