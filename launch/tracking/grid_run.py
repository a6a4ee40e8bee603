"""A grid in MLflow: its experiment with a description and prepared views, and its own run with the report."""

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable

import yaml
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus
from launch.planning.runs_folder import Runs
from launch.tracking import artifacts, rows
from launch.tracking.note import note
from launch.tracking.shown import Shown
from launch.tracking.views import view_tags

NOTE_TAG = "mlflow.note.content"


def find_experiment(client: MlflowClient, runs: Runs, grid: str) -> Experiment:
    """The experiment of a grid, which is created if it does not exist.

    Raises:
        ConfigError: it was deleted in MLflow.
    """
    found: Experiment | None = client.get_experiment_by_name(grid)
    if found is None:
        location = None if os.environ.get("MLFLOW_TRACKING_URI") else (runs.root / "mlartifacts").resolve().as_uri()
        return client.get_experiment(client.create_experiment(grid, artifact_location=location))
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise ConfigError(f"MLflow at {runs.tracking_uri}: experiment {grid!r} was deleted; `{restore}` brings it back")
    return found


def find(client: MlflowClient, experiment: Experiment) -> Run | None:
    """The grid's own run."""
    found = client.search_runs([experiment.experiment_id], f"tags.`jfbench.grid` = '{experiment.name}'", max_results=1)
    return found[0] if found else None


def create(client: MlflowClient, experiment: Experiment, grid: str, started: Iterable[CellStatus]) -> Run:
    """Create the grid's own run, which begins with the first of its cells."""
    began = min(rows.began_and_ended(status, ())[0] for status in started)
    return client.create_run(experiment.experiment_id, start_time=began, run_name=grid, tags={"jfbench.grid": grid})


def state_mark(runs: Runs, grid: str, cells: Iterable[str]) -> str:
    """Changes when a cell of the grid has news or a file of the grid changes; `cells` are the marks of its cells."""
    listed = json.dumps([artifacts.grid_files_mark(runs, grid), *cells])
    return hashlib.sha256(listed.encode()).hexdigest()


def update(
    client: MlflowClient,
    experiment: Experiment,
    parent: Run,
    runs: Runs,
    shown: Shown,
    statuses: Collection[CellStatus],
) -> None:
    """Bring the experiment's views and description, and the state and files of the grid's own run, up to date."""
    grid, run_id, mark = experiment.name, parent.info.run_id, artifacts.grid_files_mark(runs, experiment.name)
    describe(client, experiment, runs, shown, statuses)
    if parent.data.tags.get("jfbench.files") != mark:
        artifacts.log_grid(client, run_id, runs, grid)
        client.set_tag(run_id, "jfbench.files", mark)
    done = all(status.state == "finished" for status in statuses)
    if done and parent.info.status != "FINISHED":
        ended = max(rows.began_and_ended(status, ())[1] for status in statuses)
        client.set_terminated(run_id, "FINISHED", end_time=max(ended, parent.info.start_time))
    elif not done and parent.info.status != "RUNNING":
        client.update_run(run_id, "RUNNING")


def describe(
    client: MlflowClient, experiment: Experiment, runs: Runs, shown: Shown, statuses: Collection[CellStatus]
) -> None:
    """Bring the views and the description of the experiment up to date.

    A tag that MLflow refuses is left out: the runs matter more.
    """
    grid = experiment.name
    declared = json.loads((runs.grid_folder(grid) / "grid.json").read_text(encoding="utf-8"))["grid"]
    told = note(yaml.safe_dump(declared, sort_keys=False), statuses, _headline(runs, grid))
    for key, value in {NOTE_TAG: told, **view_tags(shown.varying, shown.several_seeds)}.items():
        if experiment.tags.get(key) != value:
            try:
                client.set_experiment_tag(experiment.experiment_id, key, value)
            except MlflowException as error:
                print(f"MLflow refused the tag {key} of {grid}: {str(error).splitlines()[0]}", file=sys.stderr)


def _headline(runs: Runs, grid: str) -> str:
    """The findings that the newest report wrote; empty without a report."""
    path = runs.grid_folder(grid) / "report" / "findings.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
