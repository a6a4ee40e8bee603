"""A rank that fails or stalls does not hold up the others, and the status says which rank on which node it was."""

import multiprocessing
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from harness.models.maps import Map
from harness.records import environment
from harness.run import cell as cells
from harness.run import distributed
from harness.run.distributed import MEETING_TIMEOUT, STEP_TIMEOUT, RankPosition, process_group, wait_less
from launch.local.queue import run_locally
from launch.planning.profiles import Local
from launch.planning.runs_folder import Runs
from tests.conftest import tiny_cell

CPU = torch.device("cpu")


class OneRankRaises(Map):
    """Rank 1 raises in its first training step; rank 0 is stuck, as in a collective of NCCL."""

    def step(self, state: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            if dist.get_rank() == 1:
                raise ArithmeticError("planted")
            time.sleep(600)
        return state - self.gradient(state, d)


def test_an_exception_on_one_rank_ends_all_within_a_minute_and_is_in_the_status(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(model={"name": f"{__name__}:OneRankRaises"}, world_size=2, network={"depth": 2, "width": 4})
    assert cell.needs is not None
    folder = runs.cell(cell.cell_id)
    for one in (cell.needs, cell):
        runs.cell(one.cell_id).plan(one)
    run_locally(runs, "planted", [runs.cell(cell.needs.cell_id)], Local(ranks=2), Console(), ["tests"])
    run_locally(runs, "planted", [folder], Local(ranks=2), Console(), ["tests"])
    assert time.time() - folder.exits()[0].time < 60, "since the failure was recorded"
    assert folder.status().state == "failed"
    assert folder.status().message.startswith("rank 1 on ")
    assert folder.status().message.endswith("ArithmeticError: planted")


class Left(Exception):
    """Takes the place of the end of the process."""


def test_a_failed_rank_of_nccl_records_the_cause_and_leaves_without_waiting(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Destroying its group would wait for peers that sit in an all-reduce."""
    done: list[str] = []

    def leave(code: int) -> None:
        done.append(f"exit {code}")
        raise Left

    folder = runs.cell("cell")
    folder.path.mkdir(parents=True)
    monkeypatch.setattr(distributed, "must_leave_at_once", lambda: True)
    monkeypatch.setattr(cells, "must_leave_at_once", lambda: True)
    monkeypatch.setattr(cells.os, "_exit", leave)
    monkeypatch.setattr(distributed, "_leave", lambda: done.append("destroyed"))

    def fail() -> None:
        rank = RankPosition(0, 1, 0, 1)
        with cells._failures_recorded(folder, rank), process_group(rank, CPU, tmp_path):
            raise ArithmeticError("planted")

    with pytest.raises(Left):
        fail()
    dist.destroy_process_group()
    assert done == ["exit 1"]
    assert folder.status().message.endswith("ArithmeticError: planted")


def test_the_store_waits_as_long_as_the_ranks_have_to_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own default is 5 minutes, in which a late rank 0 would cost the others their lives."""
    made: list[TCPStore] = []

    def make(*arguments: Any, **options: Any) -> TCPStore:
        made.append(TCPStore(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(distributed, "TCPStore", make)
    for rank in (0, 1):
        distributed._store(RankPosition(rank, 2, rank, 2, launch="test"), tmp_path)
    assert [store.timeout for store in made] == [MEETING_TIMEOUT] * 2


def test_after_the_first_step_a_collective_waits_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert STEP_TIMEOUT < MEETING_TIMEOUT
    with process_group(RankPosition(0, 1, 0, 1), CPU, tmp_path):
        backend = dist.distributed_c10d._get_default_group()._get_backend(CPU)
        assert backend.options._timeout == MEETING_TIMEOUT
        wait_less()
        assert backend.options._timeout == STEP_TIMEOUT


def test_training_shortens_the_timeout_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.run import train_cell

    called: list[int] = []
    monkeypatch.setattr(train_cell, "wait_less", lambda: called.append(1))
    cell = tiny_cell(model="feed-forward", backprop={"name": "unrolled", "steps": 1}, network={"depth": 2, "width": 4})
    folder = runs.cell(cell.cell_id)
    folder.plan(cell)
    assert cells.run_cell(folder.path, RankPosition(0, 1, 0, 1, threads=1)) == "finished"
    assert called == [1]
    start = folder.events()[0]
    assert [rank["device"] for rank in start.environment["ranks"]] == ["cpu"]  # type: ignore[union-attr]


def one_of_three(rank: int, folder: Path) -> None:
    """Rank 2 stalls before a collective that the others enter."""
    distributed.STEP_TIMEOUT = timedelta(seconds=2)
    distributed.ANSWER_SECONDS = 2.0
    position, recorded = RankPosition(rank, 3, rank, 3, launch="test"), Runs(folder).cell("cell")
    with suppress(RuntimeError), cells._failures_recorded(recorded, position), process_group(position, CPU, folder):
        wait_less()
        if rank == 2:
            time.sleep(60)
        dist.all_reduce(torch.ones(1))


def test_a_stalled_rank_is_named_with_its_node(runs: Runs, tmp_path: Path) -> None:
    runs.cell("cell").path.mkdir(parents=True)
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=one_of_three, args=(rank, runs.root)) for rank in range(3)]
    for process in ranks:
        process.start()
    for process in ranks[:2]:
        process.join(50)
    ranks[2].kill()
    assert runs.cell("cell").status().message.endswith(f"; no sign of rank 2 on {environment.host()}")
