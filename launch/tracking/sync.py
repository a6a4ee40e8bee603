"""Sends cell records to MLflow: one parent run per grid, one child run per cell. Idempotent, so it may run at any time.

MLflow chooses the ids of runs, so a cell's run is found by its `jfbench.cell_id` tag. Only events that no later attempt
will recompute are sent, each once: the run's `jfbench.events` tag counts them. After a crash between sending and
counting, the same rows are sent again with their recorded times, and MLflow stores them once. A lock lets one sync of a
grid work at a time.
"""

import fcntl
import re
import select
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, ErrorCode
from sqlalchemy.exc import SQLAlchemyError

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellFolder, CellStatus
from harness.records.events import durable
from launch.planning.chunks import chunks
from launch.planning.runs_folder import Runs
from launch.tracking import artifacts, grid_run, rows
from launch.tracking.shown import Shown, read_shown

METRICS_PER_CALL = 800
"""Of at most 1000 rows in a call, which also takes up to 100 parameters and 100 tags."""
PARAMS_PER_CALL = 100
FOLLOW_SECONDS = 5.0
WORTH_TWO_PROCESSES = 100
"""Cells with news; a second process takes seconds to start."""
RUN_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
NO_ANSWER = {ErrorCode.Name(INTERNAL_ERROR), ErrorCode.Name(TEMPORARILY_UNAVAILABLE)}


def sync_once(runs: Runs, grid: str) -> int:
    """Bring MLflow up to date with every cell of a grid; returns the number of cells that had news.

    Raises:
        ConfigError: MLflow does not answer or its database is damaged; or some cells are damaged or refused, and all
            others have been sent.
    """
    with _alone(runs.grid_folder(grid) / "sync.lock"):
        try:
            return _sync(runs, grid)
        except (MlflowException, SQLAlchemyError) as error:
            raise ConfigError(_what_happened(runs.tracking_uri, error)) from None


def without_password(text: str, uri: str) -> str:
    """The text with the password of the URI, as it is written there and decoded, replaced by asterisks."""
    found = re.search(r"://[^:@/]*:(.+)@", uri)
    for password in (found[1], unquote(found[1])) if found else ():
        text = text.replace(password, "***")
    return text


def sync_until_closed(runs: Runs, grid: str) -> None:
    """Sync every few seconds until standard input closes, then once more. The server may be unreachable in between.

    Raises:
        ConfigError: the server is unreachable at the end, or it refused some cells.
    """
    closed, said = False, ""
    while not closed:
        closed = bool(select.select([sys.stdin], [], [], FOLLOW_SECONDS)[0])
        try:
            sync_once(runs, grid)
            said = ""
        except ConfigError as error:
            if closed:
                raise
            if said != str(error):
                print(f"{error} (trying again)", file=sys.stderr)
            said = str(error)


@contextmanager
def _alone(lock_file: Path) -> Iterator[None]:
    """Wait until no other process syncs the same grid from this runs directory."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _what_happened(uri: str, error: MlflowException | SQLAlchemyError) -> str:
    """One line for the user, without a password."""
    refused = isinstance(error, MlflowException) and error.error_code not in NO_ANSWER
    return without_password(f"MLflow at {uri} {'refused' if refused else 'does not answer'}: {_first_line(error)}", uri)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _sync(runs: Runs, grid: str) -> int:
    client = MlflowClient(runs.tracking_uri)
    statuses = {folder: folder.status() for folder in runs.cells_of(grid)}
    marks = {folder: _mark(folder, status) for folder, status in statuses.items()}
    started = {folder: status for folder, status in statuses.items() if status.state != "planned"}
    if not started:
        return 0
    experiment = grid_run.find_experiment(client, runs, grid)
    parent = grid_run.find(client, experiment) or grid_run.create(client, experiment, grid, started.values())
    state = grid_run.state_mark(runs, grid, marks.values())
    # Reading thousands of runs takes seconds, so that one tag says whether anything is new.
    if parent.data.tags.get("jfbench.synced") == state:
        return 0
    known = _known_runs(client, experiment.experiment_id)
    news = {folder: status for folder, status in started.items() if marks[folder] != _synced(known, folder)}
    shown = read_shown(statuses)
    problems = _send_all(runs.tracking_uri, parent, known, news, shown)
    _rename(client, known, shown)
    grid_run.update(client, experiment, parent, runs, shown, statuses.values())
    if problems:
        said = f"{len(problems)} of {len(news)} cells with news did not reach MLflow at {runs.tracking_uri}"
        raise ConfigError(without_password(f"{said}; {problems[0]}", runs.tracking_uri))
    client.set_tag(parent.info.run_id, "jfbench.synced", state)
    return len(news)


def _send_all(
    uri: str, parent: Run, known: Mapping[str, Run], news: Mapping[CellFolder, CellStatus], shown: Shown
) -> list[str]:
    """Send every cell; returns a line for each that cannot be read or that MLflow refuses.

    Most of the time goes to preparing rows in Python, so that many cells are divided among two processes.
    """
    send = partial(_send_cells, uri, parent, known, shown=shown)
    if len(news) < WORTH_TWO_PROCESSES:
        return send(news)
    halves = [dict(list(news.items())[start::2]) for start in (0, 1)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return [problem for problems in pool.map(send, halves) for problem in problems]


def _send_cells(
    uri: str, parent: Run, known: Mapping[str, Run], news: Mapping[CellFolder, CellStatus], shown: Shown
) -> list[str]:
    client, problems = MlflowClient(uri), []
    for folder, status in news.items():
        try:
            _send_cell(client, parent, known.get(folder.cell_id), folder, status, shown)
        except MlflowException as error:
            if error.error_code in NO_ANSWER:
                raise ConfigError(_what_happened(uri, error)) from None
            problems.append(f"{folder.cell_id}: {_first_line(error)}")
        except (OSError, ValueError) as error:
            problems.append(f"{folder.cell_id} cannot be read: {_first_line(error)}")
    return problems


def _send_cell(
    client: MlflowClient, parent: Run, run: Run | None, folder: CellFolder, status: CellStatus, shown: Shown
) -> None:
    if status.state == "damaged":
        raise ConfigError(status.message)
    # The mark is read first: what the cell writes from now on is news again.
    mark = _mark(folder, status)
    cell, record = folder.cell(), folder.events()
    events = durable(record)
    began, ended = rows.began_and_ended(status, record)
    name = shown.run_names[folder.cell_id]
    tags = {
        **rows.environment_tags(events),
        **rows.choice_tags(cell, shown.varying),
        **rows.honest_tags(cell, events),
        "kind": shown.kinds[folder.cell_id],
        "method": shown.labels[folder.cell_id],
        "state": status.state,
    }
    if run is None:
        found_by = {"jfbench.cell_id": folder.cell_id, "mlflow.parentRunId": parent.info.run_id}
        run = client.create_run(parent.info.experiment_id, start_time=began, run_name=name, tags=found_by | tags)
        tags = {}
    if status.state in RUN_STATUS:
        artifacts.log_cell(client, run.info.run_id, folder)
        client.set_terminated(run.info.run_id, RUN_STATUS[status.state], end_time=ended)
    elif run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    # A process may have died right after it created the run.
    missing = [param for param in rows.params(cell) if param.key not in run.data.params]
    metrics = rows.metrics(cell, events, sent=_events(run))
    done = {"jfbench.events": str(len(events)), "jfbench.synced": mark}
    _log(client, run.info.run_id, missing, metrics, tags | done)


def _log(client: MlflowClient, run_id: str, params: list[Param], metrics: list[Metric], tags: dict[str, str]) -> None:
    """Send everything in as few calls as MLflow's limits allow, the tags last."""
    for some in list(chunks(params, PARAMS_PER_CALL))[1:]:
        client.log_batch(run_id, params=some)
    batches = list(chunks(metrics, METRICS_PER_CALL)) or [[]]
    for some in batches[:-1]:
        client.log_batch(run_id, metrics=some)
    client.log_batch(run_id, batches[-1], params[:PARAMS_PER_CALL], [RunTag(*tag) for tag in tags.items()])


def _mark(folder: CellFolder, status: CellStatus) -> str:
    """Changes when the cell has news: its state, and the bytes of its records and later scores, which only grow."""
    records = [*folder.path.glob("attempts/*/record.jsonl"), *folder.path.glob("scores.jsonl")]
    return f"{status.state} {sum(record.stat().st_size for record in records)}"


def _synced(known: Mapping[str, Run], folder: CellFolder) -> str | None:
    run = known.get(folder.cell_id)
    return run.data.tags.get("jfbench.synced") if run else None


def _rename(client: MlflowClient, known: Mapping[str, Run], shown: Shown) -> None:
    """Correct the names of runs whose grid was planned again: what varies may have changed."""
    for cell_id, name in shown.run_names.items():
        run = known.get(cell_id)
        if run is not None and run.info.run_name != name:
            tags = {"mlflow.runName": name, "method": shown.labels[cell_id]}
            client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in tags.items()])


def _known_runs(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    """The runs of an experiment by cell_id; the grid's own run has the empty one.

    A run that exists twice, because the answer to the request that created it was lost, is deleted.
    """
    known: dict[str, Run] = {}
    for run in sorted(all_runs(client, experiment_id), key=_events, reverse=True):
        first = known.setdefault(run.data.tags.get("jfbench.cell_id", ""), run)
        if first is not run and "jfbench.cell_id" in run.data.tags:
            client.delete_run(run.info.run_id)
    return known


def _events(run: Run) -> int:
    """The number of events that a run has been sent."""
    return int(run.data.tags.get("jfbench.events", 0))


def all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    """Every active run of an experiment."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], max_results=1000, order_by=["start_time", "run_id"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
