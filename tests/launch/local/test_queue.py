"""The local queue: what starts when, and what each rank is given of the machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from harness.config.errors import ConfigError
from harness.records.cell_folder import CellStatus, State
from launch.local.queue import Queue, Running, standard_error_to, visible_gpus
from launch.planning.grid import Grid
from launch.planning.profiles import Local, read_profile
from launch.planning.runs_folder import Runs
from launch.reconcile import launch
from tests.conftest import tiny_cell


class Job:
    """A job that runs until it is told that it has ended."""

    ended = False
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def done(self) -> bool:
        return self.ended


def test_ranks_that_run_at_once_never_share_a_slot(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folders = []
    for seed, ranks in ((0, 1), (1, 2), (2, 1), (3, 1)):
        cell = tiny_cell(seed=seed, world_size=ranks, global_batch_size=2, model="feed-forward",
                         backprop={"name": "unrolled", "steps": 1})  # fmt: skip
        folder = runs.cell(cell.cell_id)
        folder.plan(cell)
        folders.append(folder)
    queue = Queue.of(folders, 3)
    job = Job()
    for folder, slots in queue.startable():
        queue.running.append(Running(folder, slots, 0.0, job))  # type: ignore[arg-type]
    assert [running.slots for running in queue.running] == [[0], [1, 2]]
    assert [folder.cell_id for folder in queue.waiting] == [folder.cell_id for folder in folders[2:]]
    queue.running.pop(1)
    assert [(folder.cell_id, slots) for folder, slots in queue.startable()] == [
        (folders[2].cell_id, [1]), (folders[3].cell_id, [2])]  # fmt: skip
    assert not queue.waiting


def test_what_a_controller_says_goes_to_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('traceback')"]
    with standard_error_to(tmp_path / "logs" / "controller.err"):
        subprocess.run(command)
    assert (tmp_path / "logs" / "controller.err").read_text() == "traceback\n"
    assert capfd.readouterr().err == ""
    subprocess.run(command)
    assert capfd.readouterr().err == "traceback\n"


def test_gpus_have_to_be_counted_and_to_suffice(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("executor: local\ngpus: true\n")
    with pytest.raises(ConfigError, match="ranks 0 does not say how many GPUs"):
        read_profile(str(tmp_path / "site.yaml"))
    runs, cell = Runs(tmp_path / "runs"), tiny_cell(world_size=4, global_batch_size=4)
    with pytest.raises(ConfigError, match="world_size: 4 needs as many GPUs, and this --cluster has ranks: 2"):
        launch(runs, Grid(name="four"), [cell], Local(gpus=True, ranks=2), Console())
    assert not (tmp_path / "runs" / "cells").exists()


@pytest.mark.parametrize(("state", "age", "cancelled"), [("failed", 60, True), ("failed", 1, False),
                                                         ("running", 60, False)])  # fmt: skip
def test_ranks_that_outlive_a_failed_one_are_ended(runs: Runs, state: State, age: float, cancelled: bool) -> None:
    """Submitit's controller waits for all ranks, and these may wait for the failed one."""
    folder, job = runs.cell("cell"), Job()
    folder.write_status(CellStatus(state=state, updated=time.time() - age))
    queue = Queue([], {}, {}, 1, [Running(folder, [0], time.time() - 100, job)])  # type: ignore[arg-type]
    with folder.locked():
        queue.end_stranded()
    assert job.cancelled == cancelled


def test_slots_are_counted_among_the_gpus_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus([0, 1]) == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus([1, 0]) == [3, 2]
    with pytest.raises(ConfigError, match=r"CUDA_VISIBLE_DEVICES: '2,3' must number at least 3 GPUs"):
        visible_gpus([2])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_only_processors_that_this_process_may_use_count() -> None:
    one = next(iter(os.sched_getaffinity(0)))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from launch.reconcile import _at_once; "
    code += "from launch.planning.profiles import Local; print(_at_once([], Local()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
