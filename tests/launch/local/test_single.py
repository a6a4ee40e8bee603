"""`launch run GRID/CELL` finds the cell that was launched, and plans one of a grid that was not."""

import os
from collections.abc import Collection

import pytest

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder, CellStatus
from launch.local import single as alone
from launch.planning.grid import plan, read_grid
from launch.planning.overrides import override, parse_assignment
from launch.planning.runs_folder import Runs
from launch.planning.selection import find_cell
from tests.conftest import tiny_cell

CHANGES = ["steps=77", "world_size=1"]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(folder: CellFolder, trusted: Collection[str]) -> str:
        return folder.cell_id

    monkeypatch.setattr(alone, "run_here", name)


def finish_denoiser(runs: Runs, prefix: str) -> None:
    needs = find_cell(runs, prefix).cell().needs
    assert needs is not None
    runs.cell(needs.cell_id).write_status(CellStatus(state="finished"))


def test_a_cell_of_a_launched_grid_needs_no_overrides_again(runs: Runs) -> None:
    grid = override(read_grid("demo"), map(parse_assignment, CHANGES))
    cells = plan(grid)
    trained = next(cell.cell_id for cell in cells if cell.cell_id.startswith("de-prox_jfb"))
    with pytest.raises(ConfigError, match=f"cell: '{trained}' matches 0 cells of demo"):
        alone.run_alone(runs, f"demo/{trained}", [])
    runs.write_plan(grid, cells)
    finish_denoiser(runs, trained)
    assert alone.run_alone(runs, f"demo/{trained}", []) == trained


def test_a_cell_of_a_grid_that_was_never_launched_is_planned(runs: Runs) -> None:
    with pytest.raises(
        ConfigError, match=r"needs a cell that is not finished; first: python -m launch run pretrain\S+ --runs \S+$"
    ) as said:
        alone.run_alone(runs, "demo/de-prox_jfb", CHANGES)
    denoiser = str(said.value).split()[-3]
    assert alone.run_alone(runs, denoiser, []) == denoiser
    finish_denoiser(runs, "de-prox_jfb")
    found = alone.run_alone(runs, "demo/de-prox_jfb", CHANGES)
    assert runs.cell(found).cell().model_dump()["steps"] == 77


def test_a_cell_in_the_runs_directory_names_only_classes_of_trusted_packages(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(model={"name": "theirs.maps:Map", "damping": 1}, world_size=2)
    runs.cell(cell.cell_id).plan(cell)
    with pytest.raises(ConfigError, match=r"^model: theirs\.maps:Map is code that .*; --trust theirs runs it$"):
        alone.run_alone(runs, cell.cell_id, [])
    finish_denoiser(runs, cell.cell_id)

    def execv(program: str, arguments: list[str]) -> None:
        raise RuntimeError(" ".join(arguments))

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(RuntimeError, match=r"--trust theirs$"):  # torchrun's ranks are told
        alone.run_alone(runs, cell.cell_id, [], ["theirs"])
