"""`launch pull`: the same report from what MLflow has."""

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis.reading.load import load
from analysis.report import build, to_html
from harness.config.errors import ConfigError
from launch.planning.runs_folder import Runs
from launch.tracking.pull import pull
from launch.tracking.sync import sync_once
from tests.analysis import synthetic


def page(runs: Runs) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE", to_html(build(load(runs, "demo"))))


def test_the_report_of_a_pulled_grid_is_the_same_but_for_its_date(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    synthetic.make(runs, "steps=10", "pretraining.steps=6", "model=de-prox", "seed=0,1", change=second_seed_is_planned)
    runs.write_estimates("demo", {folder.cell_id: 5.0 for folder in runs.cells_of("demo")})
    sync_once(runs, "demo")
    pulled = Runs(tmp_path / "pulled")
    assert pull(pulled, "demo", runs.tracking_uri) == 9
    assert page(pulled) == page(runs)
    with pytest.raises(ConfigError, match=r"^grid: 'demo' is in \S+ already; choose another --runs$"):
        pull(pulled, "demo", runs.tracking_uri)
    with pytest.raises(ConfigError, match=r"^--from: sqlite:///\S+ has no grid 'other'$"):
        pull(Runs(tmp_path / "third"), "other", runs.tracking_uri)


def second_seed_is_planned(cell: synthetic.Cell, fake: synthetic.Fake) -> None:
    if cell.seed == 1 and cell.kind == "train":
        fake.state = "planned"


def test_only_the_grids_own_cells_are_written_whatever_a_server_calls_a_cell(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    synthetic.make(runs, "steps=10", "pretraining.steps=6", "model=de-prox", "baselines=tikhonov")
    sync_once(runs, "demo")
    client = MlflowClient(runs.tracking_uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    run = next(one for one in client.search_runs([experiment.experiment_id]) if one.data.tags.get("baseline"))
    client.set_tag(run.info.run_id, "jfbench.cell_id", "../../outside")
    pulled = Runs(tmp_path / "a" / "pulled")
    assert pull(pulled, "demo", runs.tracking_uri) == 3
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"pulled"}


def test_a_server_that_is_away_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--from: demo cannot be pulled from http://127.0.0.1:9: [^\n]+$"):
        pull(Runs(tmp_path), "demo", "http://127.0.0.1:9")
    assert not list(tmp_path.iterdir())
