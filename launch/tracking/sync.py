"""Sends cell records to MLflow: one parent run per grid, one child run per cell. Idempotent, so it may run at any time.

MLflow chooses the ids of runs, so a cell's run is found by its `jfbench.cell_id` tag. Only events that no later attempt
will recompute are sent, each once: the run's `jfbench.events` tag counts them. After a crash between sending and
counting, the same rows are sent again with their recorded times, and MLflow stores them once.
"""

import json
import math
import os
import re
import select
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote

from harness.commands.console import report_damage
from harness.config.cells import Cell, TrainCell
from harness.config.dotted import flatten
from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder
from harness.records.events import (
    AnyEvent,
    Contraction,
    Evaluation,
    Fidelity,
    Probe,
    Round,
    Start,
    Step,
    adjoint_cut_share,
    durable,
    honest_name,
)
from launch.planning.chunks import chunks
from launch.planning.runs_folder import Runs

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# By default MLflow tries seven times, which takes minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
FOLLOW_SECONDS = 5.0
RUN_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def sync_once(runs: Runs, grid: str) -> tuple[int, list[str]]:
    """Bring MLflow up to date with every cell of a grid that can be read.

    Returns the number of cells that had news, and what is wrong with each cell that cannot be read.

    Raises:
        ConfigError: MLflow does not answer, or its database is damaged; or the grid's own file is.
    """
    try:
        return _sync(runs, grid)
    except (MlflowException, SQLAlchemyError) as error:
        message = f"MLflow at {runs.tracking_uri} does not answer: {str(error).splitlines()[0]}"
        raise ConfigError(without_password(message, runs.tracking_uri)) from None


def without_password(text: str, uri: str) -> str:
    """The text with the password of the URI, as it is written there and decoded, replaced by asterisks."""
    found = re.search(r"://[^:@/]*:(.+)@", uri)
    for password in (found[1], unquote(found[1])) if found else ():
        text = text.replace(password, "***")
    return text


def _sync(runs: Runs, grid: str) -> tuple[int, list[str]]:
    client = MlflowClient(runs.tracking_uri)
    experiment = _experiment(client, runs, grid)
    known = {run.data.tags.get("jfbench.cell_id", ""): run for run in _all_runs(client, experiment)}
    parent = known.get("") or client.create_run(experiment, run_name=grid, tags={"jfbench.grid": grid})
    folders = runs.cells_of(grid)
    news, damage = 0, []
    for folder in folders:
        try:
            news += _sync_cell(client, parent, known.get(folder.cell_id), folder)
        except ConfigError as error:
            damage.append(str(error))
    done = all(folder.status().state == "finished" for folder in folders)
    status = "FINISHED" if done else "RUNNING"
    if parent.info.status != status:
        (client.set_terminated if done else client.update_run)(parent.info.run_id, status)
    return news, damage


def sync_until_closed(runs: Runs, grid: str) -> None:
    """Sync every few seconds until standard input closes, then once more. The server may be unreachable in between.

    What is damaged is said once, on standard error.

    Raises:
        ConfigError: the server is unreachable at the end.
    """
    closed = unreachable = False
    said: set[str] = set()
    while not closed:
        closed = bool(select.select([sys.stdin], [], [], FOLLOW_SECONDS)[0])
        try:
            damage = set(sync_once(runs, grid)[1])
            report_damage(sorted(damage - said))
            said |= damage
            unreachable = False
        except ConfigError as error:
            if closed:
                raise
            if not unreachable:
                print(f"{error} (trying again)", file=sys.stderr)
            unreachable = True


def _sync_cell(client: MlflowClient, parent: Run, run: Run | None, folder: CellFolder) -> bool:
    state, message = folder.status().state, folder.status().message
    if state == "damaged":
        raise ConfigError(message)
    cell = folder.cell()
    if state == "planned":
        return False
    events = durable(folder.events())
    done = f"{len(events)} {state}"
    if run is not None and run.data.tags.get("jfbench.synced") == done:
        return False
    if run is None:
        tags = {"jfbench.cell_id": folder.cell_id, "mlflow.parentRunId": parent.info.run_id}
        run = client.create_run(parent.info.experiment_id, run_name=folder.cell_id, tags=tags)
    # A shell may have died right after it created the run.
    missing = [param for param in _params(cell) if param.key not in run.data.params]
    for params in chunks(missing, PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=params)
    sent = int(run.data.tags.get("jfbench.events", 0))
    for metrics in chunks(_metrics(events[sent:]), METRICS_PER_CALL):
        client.log_batch(run.info.run_id, metrics=metrics)
    tags = {
        **_tags(events),
        **_method(cell, events),
        "jfbench.state": state,
        "jfbench.events": str(len(events)),
        "jfbench.synced": done,
    }
    if state == "finished":
        _log_artifacts(client, run, folder, events)
    client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    if state in RUN_STATUS:
        client.set_terminated(run.info.run_id, RUN_STATUS[state], end_time=_milliseconds(folder.status().updated))
    else:
        client.update_run(run.info.run_id, status="RUNNING")
    return True


def _params(cell: Cell) -> list[Param]:
    """Every field of the cell under its dotted name."""
    fields = flatten(cell.to_json())
    return [Param(key, json.dumps(value) if isinstance(value, list) else str(value)) for key, value in fields]


def _tags(events: Iterable[AnyEvent]) -> dict[str, str]:
    """The environment of the newest attempt, and the number of attempts."""
    starts = [event for event in events if isinstance(event, Start)]
    environment = starts[-1].environment if starts else {}
    return {"attempts": str(len(starts)), **{key: str(value) for key, value in environment.items()}}


def _method(cell: Cell, events: Iterable[AnyEvent]) -> dict[str, str]:
    """The backprop method by its honest name: one whose adjoint solves were cut says so."""
    if not isinstance(cell, TrainCell):
        return {}
    return {"jfbench.backprop": honest_name(cell.backprop.name, adjoint_cut_share(events))}


def _metrics(events: Iterable[AnyEvent]) -> list[Metric]:
    """Every number of the events with the time and step at which it was recorded."""
    rows = []
    for event in events:
        if isinstance(event, Step):
            numbers = event.model_dump(exclude=_NOT_METRICS, exclude_none=True)
            values = {f"train/{key}": value for key, value in numbers.items()}
            values |= {f"seconds/{phase}": fmean(ranks) for phase, ranks in event.seconds.items()}
            values["seconds/step"] = event.duration
        elif isinstance(event, Round):
            values = {f"timing/{_metric_name(method)}": step.duration for method, step in event.steps.items()}
        elif isinstance(event, Evaluation):
            lists = {**event.scores, "nfe": event.nfe, "residual": event.residual}
            values = {f"{event.split}/{name}": fmean(numbers) for name, numbers in lists.items()}
        elif isinstance(event, Probe):
            values = {f"probe/{key}": value for key, value in event.model_dump(exclude=_NOT_METRICS).items()}
        elif isinstance(event, Contraction):
            values = _contraction(event)
        elif isinstance(event, Fidelity):
            values = _fidelity(event)
        else:
            continue
        # MLflow has no infinity, so numbers that are not finite are left out. The record keeps them.
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        rows += [Metric(key, value, _milliseconds(event.time), event.step) for key, value in finite.items()]
    return rows


def _metric_name(method: str) -> str:
    """A method's name in the characters that MLflow allows."""
    return re.sub(r"[^\w .\-/]", "-", method)


def _contraction(event: Contraction) -> dict[str, float]:
    """Means over the pictures, and the PSNR and residual after each number of evaluations past the training depth."""
    lists = ("norm", "spectral_radius", "dominant_eigenvalue", "dominant_imaginary", "eigenvalue_residual")
    values = {f"contraction/{name}": fmean(getattr(event, name)) for name in lists}
    values |= {f"contraction/psnr_at_{count}": psnr for count, psnr in event.psnr_at.items()}
    return values | {f"contraction/residual_at_{count}": residual for count, residual in event.residual_at.items()}


def _fidelity(event: Fidelity) -> dict[str, float]:
    """The error of each method's gradient, and whether there was a reference to compare it with."""
    values = {"fidelity/measured": float(event.status == "measured"), "fidelity/residual": event.forward_residual}
    for name, error in event.methods.items():
        values |= {f"fidelity/{name}/{key}": value for key, value in error.model_dump().items()}
    return values


_NOT_METRICS = {"event", "time", "step", "seconds", "diverged", "updated"}


def _log_artifacts(client: MlflowClient, run: Run, folder: CellFolder, events: list[AnyEvent]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        merged = Path(scratch) / "record.jsonl"
        merged.write_text("".join(event.model_dump_json() + "\n" for event in events), encoding="utf-8")
        client.log_artifact(run.info.run_id, str(merged))
    client.log_artifact(run.info.run_id, str(folder.path / "cell.json"))
    if folder.reconstructions.is_dir():
        client.log_artifacts(run.info.run_id, str(folder.reconstructions), "reconstructions")


def _experiment(client: MlflowClient, runs: Runs, name: str) -> str:
    """The id of the grid's experiment, which is created if it does not exist."""
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None if os.environ.get("MLFLOW_TRACKING_URI") else (runs.root / "mlartifacts").resolve().as_uri()
    return client.create_experiment(name, artifact_location=location)


def _all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
