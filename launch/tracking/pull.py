"""Rebuilds the directories of a grid from MLflow, so that its report can be written where its disk is not seen."""

import json
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.config.errors import ConfigError
from harness.records.files import write_atomically
from launch.planning.grid import declared_cells, validated
from launch.planning.runs_folder import Runs
from launch.tracking.sync import all_runs


def pull(runs: Runs, grid: str, uri: str) -> int:
    """Write the plan of a grid and the directory of every cell that ended; returns the number of these cells.

    A cell that this runs directory has already stays as it is. The plan is written last, so that a grid that was pulled
    in part does not count as launched.

    Raises:
        ConfigError: the grid is here already, MLflow does not answer, or it has no such grid or lacks its files.
    """
    if runs.is_launched(grid):
        raise ConfigError(f"grid: {grid!r} is in {runs.root} already; choose another --runs")
    runs.require_space()
    client = MlflowClient(uri)
    try:
        parent, ended = _runs_of(client, grid, uri)
        files = _plan_files(client, parent, runs)
        planned = {cell.cell_id: cell for cell in declared_cells(validated(json.loads(files["grid.json"])["grid"]))}
        # A server may name anything a cell; only directories of the grid's own cells are written.
        pulled = [cell_id for cell_id in planned if cell_id in ended]
        for cell_id in pulled:
            _pull_cell(client, ended[cell_id], runs.cell(cell_id).path)
        for cell_id, cell in planned.items():
            if cell_id not in ended:
                runs.cell(cell_id).plan(cell)
        for name in sorted(files):
            write_atomically(runs.grid_folder(grid) / name, files[name])
    except (MlflowException, OSError, KeyError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"--from: {grid} cannot be pulled from {uri}: {said}") from None
    return len(pulled)


def _runs_of(client: MlflowClient, grid: str, uri: str) -> tuple[str, dict[str, str]]:
    """The ids of the grid's own run and of the run of each cell that ended."""
    experiment = client.get_experiment_by_name(grid)
    every = list(all_runs(client, experiment.experiment_id)) if experiment else []
    parents = [run.info.run_id for run in every if run.data.tags.get("jfbench.grid") == grid]
    if not parents:
        raise ConfigError(f"--from: {uri} has no grid {grid!r}")
    ended = [run for run in every if "jfbench.cell_id" in run.data.tags and run.info.status != "RUNNING"]
    return parents[0], {run.data.tags["jfbench.cell_id"]: run.info.run_id for run in ended}


def _pull_cell(client: MlflowClient, run_id: str, path: Path) -> None:
    """Download the files of a cell, all or none."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as scratch:
        Path(client.download_artifacts(run_id, "", scratch)).rename(path)


def _plan_files(client: MlflowClient, run_id: str, runs: Runs) -> dict[str, str]:
    """The content of grid.json and, where prices were estimated, of estimates.json."""
    with tempfile.TemporaryDirectory(dir=runs.root) as scratch:
        found = {file.path for file in client.list_artifacts(run_id)} & {"estimates.json", "grid.json"}
        return {name: Path(client.download_artifacts(run_id, name, scratch)).read_text() for name in found}
