"""A cell whose adjoint solves are cut can be told from one whose are solved: in record, status, report and MLflow."""

import io
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from analysis.reading.load import load
from harness.records.events import Evaluation, Step, adjoint_cut_share
from harness.run.cell import run_cell
from harness.run.distributed import RankPosition
from launch.planning.grid import Grid
from launch.planning.runs_folder import Runs
from launch.tracking.status import read_table
from launch.tracking.sync import sync_once
from tests.conftest import tiny_cell


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One cell whose limit is two products, and one that may take as many as it needs to a loose tolerance."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    solvers = [{"name": "gmres", "tol": 1e-6, "max_steps": 2}, {"name": "gmres", "tol": 0.5, "max_steps": 200}]
    cells = [tiny_cell(backprop={"name": "implicit", "solver": s}, pretraining={"steps": 30}) for s in solvers]
    needs = cells[0].needs
    assert needs is not None
    runs.write_plan(Grid(name="cut"), [needs, *cells])
    for cell in [needs, *cells]:
        assert run_cell(runs.cell(cell.cell_id).path, RankPosition.from_environment()) == "finished"
    return runs


def test_the_record_counts_every_solve(runs: Runs) -> None:
    _, cut, solved = (folder.events() for folder in runs.cells_of("cut"))
    assert (adjoint_cut_share(cut), adjoint_cut_share(solved)) == (1.0, 0.0)
    assert all(step.adjoint_residual <= 0.5 for step in solved if isinstance(step, Step))


def test_report_status_and_mlflow_call_it_cut(runs: Runs) -> None:
    labels = list(load(runs, "cut").trained["label"])
    assert labels[0].startswith("de-prox implicit, cut")
    assert labels[1].startswith("de-prox implicit ")
    console = Console(file=io.StringIO(), width=200)
    console.print(read_table(runs, runs.cells_of("cut")))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("100% of its adjoint solves were cut at max_steps") == 1
    sync_once(runs, "cut")
    client = MlflowClient(runs.tracking_uri)
    experiment = client.get_experiment_by_name("cut")
    assert experiment is not None
    tags = [run.data.tags.get("jfbench.backprop") for run in client.search_runs([experiment.experiment_id])]
    assert sorted(tag for tag in tags if tag) == ["implicit", "implicit, cut"]


def test_a_score_is_of_a_tighter_solve_than_training_takes(tmp_path: Path) -> None:
    """Training stops after four evaluations; scores do not."""
    runs = Runs(tmp_path)
    cell = tiny_cell(model="de-hqs", pretraining={"steps": 30}, evaluation={"tol": 1e-4, "max_steps": 120})
    assert cell.needs is not None
    for one in (cell.needs, cell):
        runs.cell(one.cell_id).plan(one)
        run_cell(runs.cell(one.cell_id).path, RankPosition.from_environment())
    events = runs.cell(cell.cell_id).events()
    test = [event for event in events if isinstance(event, Evaluation) and event.split == "test"][-1]
    assert max(event.nfe for event in events if isinstance(event, Step)) == 4
    assert min(test.nfe) > 4
    for place, index in enumerate(test.indices):
        assert (test.residual[place] <= 1e-4) == (index not in test.unconverged)
        assert test.unit_residual[place] == pytest.approx(test.residual[place] / 0.45)
