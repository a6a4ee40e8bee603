"""The life of a cell on a real cluster: whatever ends its job, it goes on where its checkpoint left it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.folder import CellFolder
from harness.record import Start
from launch.runs import Runs
from tests.conftest import tiny_cell
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.helpers import all_finished, assert_same_result, job_id, process_of_rank, send, with_needed

OPERATIONS = {"checkpoint_every": 7, "reconstructions": 0}
PATIENCE = 400.0


def running(folder: CellFolder, step: int) -> Callable[[], bool]:
    """Whether a cell has come to a step."""
    return lambda: folder.status().state == "running" and folder.status().step >= step


def end_by(cluster: Cluster, runs: Runs, folder: CellFolder, how: str) -> None:
    """Disturb the job of a cell."""
    job = job_id(runs, folder)
    if how == "time limit":
        cluster.run("scancel", job, "--signal=USR2")
    elif how == "requeue":
        cluster.run("scontrol", "requeue", job)
    elif how == "killed rank":
        os.kill(process_of_rank(folder, 1), signal.SIGKILL)
    elif how == "node":
        node = cluster.run("squeue", "--noheader", "--jobs", job, "--format=%N").strip()
        cluster.power_off(node, tell=True)


@pytest.mark.timeout(1200)
def test_every_way_to_lose_a_job_ends_with_the_weights_of_an_undisturbed_run(cluster: Cluster, tmp_path: Path) -> None:
    ways = ["time limit", "requeue", "killed rank", "node"]
    cells = [
        tiny_cell(model=model, steps=80, evaluate_every=500, world_size=2, operations=OPERATIONS)
        for model in ("de-grad", "de-prox", "de-admm", "de-hqs")
    ]
    quiet = send(Runs(tmp_path / "quiet"), with_needed(cells), cells_per_job=4)
    wait_until(lambda: all_finished(quiet), "the undisturbed cells do not finish", PATIENCE)

    runs = Runs(tmp_path / "runs")
    disturbed = send(runs, with_needed(cells))
    for folder, how in zip(disturbed[1:], ways, strict=True):
        wait_until(running(folder, 10), f"{folder.cell_id} does not start", PATIENCE)
        end_by(cluster, runs, folder, how)
    wait_until(lambda: all_finished(disturbed), "the disturbed cells do not finish", PATIENCE)
    for one, other in zip(disturbed, quiet, strict=True):
        assert_same_result(one, other)
    for folder, how in zip(disturbed[1:], ways, strict=True):
        starts = [event for event in folder.events() if isinstance(event, Start)]
        assert len(starts) >= 2, how
        assert starts[-1].resumed_from >= 7, how
        assert starts[-1].environment["cuda_visible_devices"]
        reasons = {ended.reason for ended in folder.exits().values()}
        said = {"time limit": "USR2", "requeue": "TERM", "killed rank": "rank 1 was killed by SIGKILL on node"}
        assert how == "node" or any(said[how] in reason for reason in reasons), (how, reasons)
