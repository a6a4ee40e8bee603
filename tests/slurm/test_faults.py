"""A grid on a cluster that fails: every cell finishes, each step is recorded once, and the weights are the same."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.config.cells import Cell, parse_cell
from harness.records.cell_folder import CellFolder
from harness.records.events import Start
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell
from tests.slurm.cluster import POLL_SECONDS, Cluster, wait_until
from tests.slurm.helpers import (
    all_finished,
    assert_each_step_once,
    assert_same_result,
    job_id,
    process_of_rank,
    send,
    with_needed,
)  # fmt: skip
from tests.slurm.paced import PAUSE

PATIENCE = 3000.0
Fault = tuple[str, Callable[[CellFolder], None]]
"""A word in the reason with which the attempt ends (empty for a lost node, which leaves none), and what causes it."""


def trained(world_size: int, model: str, backprop: str, steps: int) -> Cell:
    return tiny_cell(
        model=model, backprop=backprop, world_size=world_size, steps=steps, global_batch_size=8, evaluate_every=10_000,
        network={"name": "tests.slurm.paced:Paced", "depth": 3, "width": 8},
        operations={"checkpoint_every": 7, "reconstructions": 0},
    )  # fmt: skip


# Slurm checks time limits, which are whole minutes, every half minute. A step evaluates the network five times.
LONG = trained(1, "de-grad", "jfb", steps=1200)
PACE = {"OMP_NUM_THREADS": "1", PAUSE: "0.02"}


def grid() -> list[Cell]:
    """24 cells: 17 with one rank, 5 with two, and 2 on two nodes with two ranks each."""
    models = ("de-grad", "de-prox", "de-admm", "de-hqs")
    cells = [LONG]
    cells += [trained(1, model, backprop, 80) for model in models[1:] for backprop in ("jfb", "phantom", "neumann")]
    cells += [trained(2, model, "jfb", 60) for model in models]
    cells += [trained(4, "de-hqs", "jfb", 40), trained(4, "de-admm", "jfb", 40)]
    baselines = ("degraded", "direct-inverse", "tikhonov", "gradient-descent", "wiener")
    data = cells[0].data
    scored = [parse_cell({"kind": "baseline", "baseline": name, "data": data}) for name in baselines]
    return with_needed([*scored, *cells])


def starts(folder: CellFolder) -> list[Start]:
    return [event for event in folder.events() if isinstance(event, Start)]


def reasons(folder: CellFolder) -> list[str]:
    """Why its attempts ended."""
    return [ended.reason for ended in folder.exits().values()]


def disturb(folders: list[CellFolder], faults: dict[int, list[Fault]]) -> dict[CellFolder, str]:
    """Cause each fault in a cell with the given number of ranks, as soon as one is training and has a checkpoint.

    Returns the word that the reason of each disturbed cell must contain.
    """
    hit: dict[CellFolder, str] = {}
    ranks = {folder: folder.cell().world_size for folder in folders}
    deadline = time.monotonic() + PATIENCE
    while any(faults.values()):
        assert time.monotonic() < deadline, f"no cell trains for {faults}"
        for folder in folders:
            status, pending = folder.status(), faults[ranks[folder]]
            trains = status.state == "running" and 10 <= status.step < status.steps - 15
            if pending and trains and folder not in hit:
                hit[folder], fault = pending.pop(0)
                fault(folder)
        time.sleep(POLL_SECONDS)
    return hit


def follow(runs: Runs, uri: str) -> subprocess.Popen[bytes]:
    """Run `launch sync --follow` beside the jobs; when its standard input closes, it syncs once more and ends."""
    words = [sys.executable, "-m", "launch", "sync", "test", "--follow", "--runs", str(runs.root)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, env={**os.environ, "MLFLOW_TRACKING_URI": uri})


@contextmanager
def tracking_server(root: Path, port: int) -> Iterator[None]:
    """An MLflow server on the loopback address."""
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    where = ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artifacts")]
    process = subprocess.Popen(
        [*words, *where],
        env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_every_cell_finishes_once_whatever_fails(cluster: Cluster, tmp_path: Path) -> None:
    cells = grid()
    assert len(cells) == 24
    runs, port = Runs(tmp_path / "runs"), free_port()
    folders = send(runs, cells, environment=PACE)
    training = [folder for folder in folders if folder.cell().kind == "train"]
    sync = follow(runs, f"http://127.0.0.1:{port}")

    def field(folder: CellFolder, name: str) -> str:
        return cluster.run("squeue", "--noheader", "--jobs", job_id(runs, folder), f"--format={name}").strip()

    def power_off(folder: CellFolder) -> None:
        # slurmctld gets no notice; it detects the loss after a while and restarts the cell elsewhere.
        cluster.power_off(field(folder, "%N"))

    def set_limit(folder: CellFolder, minutes: int) -> None:
        cluster.run("scontrol", "update", f"jobid={job_id(runs, folder)}", f"timelimit={minutes}")

    def shorten(folder: CellFolder) -> None:
        # Leave at least a minute, because Slurm's warning comes that long before the limit.
        running = datetime.now() - datetime.fromisoformat(field(folder, "%S"))
        set_limit(folder, int(running / timedelta(minutes=1)) + 2)

    def kill(folder: CellFolder) -> None:
        os.kill(process_of_rank(folder, 1), signal.SIGKILL)
        cluster.restart_controller()

    def requeue(folder: CellFolder) -> None:
        cluster.run("scontrol", "requeue", job_id(runs, folder))

    def preempt(folder: CellFolder) -> None:
        urgent = ["--partition=high", "--exclusive", f"--nodelist={field(folder, '%B')}", "--output=/dev/null"]
        cluster.run("sbatch", *urgent, "--wrap", "sleep 5")

    (long,) = [folder for folder in training if folder.cell() == LONG]
    others = [folder for folder in training if folder != long]
    killed = "rank 1 was killed by SIGKILL on node"
    hit = disturb([long], {1: [("USR2", shorten)]})
    hit |= disturb(others, {1: [("TERM", requeue)], 2: [(killed, kill)], 4: [("USR2", preempt)]})
    wait_until(lambda: any("USR2" in reason for reason in reasons(long)), "no limit ends the cell", PATIENCE)
    set_limit(long, 60)
    disturb([long], {1: [("", power_off)]})
    cluster.power_on()
    with tracking_server(tmp_path, port):
        wait_until(lambda: all_finished(folders), "the disturbed cells do not finish", PATIENCE)
        sync.communicate(timeout=PATIENCE)
    assert sync.returncode == 0

    assert_every_step_is_in_mlflow_once(f"sqlite:///{tmp_path}/mlflow.db", folders)
    for folder in training:
        assert_each_step_once(folder)
    # Cells that were restarted are compared with undisturbed runs of the same cells; the others need no comparison.
    again = [folder for folder in training if len(starts(folder)) > 1]
    assert set(hit) <= set(again)
    quiet = send(Runs(tmp_path / "quiet"), with_needed([folder.cell() for folder in again]), cells_per_job=3)
    wait_until(lambda: all_finished(quiet), "the undisturbed cells do not finish", PATIENCE)
    undisturbed = {folder.cell_id: folder for folder in quiet}
    for folder in again:
        assert_same_result(folder, undisturbed[folder.cell_id])
    for disturbed, said in hit.items():
        last = starts(disturbed)[-1]
        assert last.resumed_from >= 7, (disturbed.cell_id, said)
        assert last.environment["cuda_visible_devices"]
        assert any(said in reason for reason in reasons(disturbed)), (disturbed.cell_id, said)


def assert_every_step_is_in_mlflow_once(uri: str, folders: list[CellFolder]) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    found = {run.data.tags.get("jfbench.cell_id"): run for run in client.search_runs([experiment.experiment_id])}
    for folder in folders:
        run = found[folder.cell_id]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in history] == list(range(1, folder.status().steps + 1))
