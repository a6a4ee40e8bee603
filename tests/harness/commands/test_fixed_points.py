"""The fixed points of a trained map are searched at validation pictures, before and after training."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.__main__ import app
from harness.config.cells import in_order
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from harness.run.fixed_points import search
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CellFolder:
    """A finished DE-HQS cell with a network that contracts by construction, so that a fixed point exists."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    cell = tiny_cell(model="de-hqs", network={"name": "gradient-step", "width": 4}, optimizer={"lr": 0.01})
    for one in in_order(cell):
        runs.cell(one.cell_id).plan(one)
        assert run_cell(runs.cell(one.cell_id).path, RankPosition.from_environment()) == "finished"
    return runs.cell(cell.cell_id)


def test_they_are_found_before_and_after_training(folder: CellFolder) -> None:
    for trained in (False, True):
        found = list(search(folder, trained, pictures=2))
        assert len(found) == 2
        assert all(one.converged and one.residual <= 1e-10 for one in found)
    before, after = (next(search(folder, trained, pictures=1)) for trained in (False, True))
    assert before.residual != after.residual, "another map"


def test_the_command_prints_a_row_for_each(folder: CellFolder) -> None:
    printed = CliRunner().invoke(app, ["fixed-points", str(folder.path), "--pictures", "1"]).stdout
    assert printed.count("1 of 1") == 2


def test_a_cell_without_a_map_is_refused(folder: CellFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the directory of a cell"):
        list(search(CellFolder(tmp_path), True, 1))
    needed = folder.prerequisites()[0]
    with pytest.raises(ConfigError, match="pretrain cell"):
        list(search(needed, True, 1))
