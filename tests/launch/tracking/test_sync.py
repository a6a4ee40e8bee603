"""Records to MLflow: what an interruption left out comes later, and a server that is away is one line."""

import pytest
from mlflow import MlflowClient

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus
from launch.planning.grid import Grid
from launch.planning.runs_folder import Runs
from launch.tracking.sync import sync_once
from tests.analysis.synthetic import make
from tests.conftest import tiny_cell


def launched(runs: Runs) -> None:
    cell = tiny_cell()
    runs.write_plan(Grid(name="test"), [cell])
    runs.cell(cell.cell_id).write_status(CellStatus(state="interrupted", updated=1.0))


def test_a_sync_that_dies_after_it_made_a_run_is_made_up_for(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    launched(runs)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", die)
        with pytest.raises(KeyboardInterrupt):
            sync_once(runs, "test")
    assert sync_once(runs, "test") == (1, [])
    client = MlflowClient(runs.tracking_uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    _, run = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: len(run.data.params))
    assert run.data.params["solver.max_steps"] == "4"


def test_a_timing_cell_has_one_metric_for_each_method(runs: Runs) -> None:
    methods = ("timing.steps=5", "backprop=[jfb, {name: neumann, order: 2}, {name: neumann, order: 5}]")
    make(runs, "model=de-hqs", "baselines=[]", "steps=4", "pretraining.steps=1", *methods)
    sync_once(runs, "demo")
    client = MlflowClient(runs.tracking_uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    (run,) = [run for run in found if run.data.tags.get("jfbench.cell_id", "").startswith("timing_")]
    assert set(run.data.metrics) == {"timing/jfb", "timing/neumann order-2", "timing/neumann order-5"}
    rounds = client.get_metric_history(run.info.run_id, "timing/jfb")
    assert [one.step for one in rounds] == [10, 11, 12, 13, 14]
    assert sync_once(runs, "demo") == 0


def test_a_server_that_is_away_is_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(runs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^MLflow at http://127.0.0.1:9 does not answer: [^\n]+$"):
        sync_once(runs, "test")
