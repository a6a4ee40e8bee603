"""Waiting is told from communication, and the phases of every rank add up to its wall time."""

import json
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import mse_loss

from harness.measure.clock import Clock
from harness.measure.step_time import with_waiting
from harness.run.distributed import data_parallel

STEPS = 4
SLOW = 0.08
"""Seconds by which the last rank is slowed down on purpose in every step."""


def test_a_rank_waits_for_the_slowest_and_its_total_stays() -> None:
    phases = {
        "data": [1.0, 1.0],
        "forward_solve": [2.0, 5.0],
        "gradient_synchronization": [3.5, 0.5],
        "optimizer": [1, 1],
    }
    split = with_waiting(phases)
    assert split["waiting"] == [3.0, 0.0]
    assert split["gradient_synchronization"] == [0.5, 0.5]
    assert [sum(column) for column in zip(*split.values(), strict=True)] == [7.5, 7.5]


def test_synchronization_that_was_hidden_is_not_negative() -> None:
    split = with_waiting({"forward_solve": [1.0, 5.0], "gradient_synchronization": [2.0, 0.0]})
    assert split == {"forward_solve": [1.0, 5.0], "gradient_synchronization": [0.0, 0.0], "waiting": [2.0, 0.0]}


def one_rank(rank: int, world_size: int, folder: str) -> None:
    """Train a little with the real clock and hook, and note phases beside independently measured wall times."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    clock = Clock(torch.device("cpu"))
    model = data_parallel(torch.nn.Linear(256, 256), clock)
    x, seconds, walls = torch.ones(64, 256), [], []
    for _ in range(2):  # in the second, the ranks agree on their buckets
        mse_loss(model(x), x).backward()
    for _ in range(STEPS):
        dist.barrier()
        begin = time.perf_counter()
        clock.reset()
        with clock("forward_solve"):
            time.sleep(0.02 + (SLOW if rank == world_size - 1 else 0))
        with clock("parameter_gradient"):
            mse_loss(model(x), x).backward()
        seconds.append(clock.read())
        walls.append(time.perf_counter() - begin)
    Path(folder, f"{rank}.json").write_text(json.dumps([seconds, walls]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_phases_add_up_to_the_wall_time_with_one_rank_slowed_down(world_size: int, tmp_path: Path) -> None:
    spawn(one_rank, args=(world_size, str(tmp_path)), nprocs=world_size)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world_size)]
    for step in range(STEPS):
        phases = {name: [seconds[step][name] for seconds, _ in ranks] for name in ranks[0][0][step]}
        split = with_waiting(phases)
        totals = [sum(column) for column in zip(*split.values(), strict=True)]
        for total, (_, walls) in zip(totals, ranks, strict=True):
            assert total == pytest.approx(walls[step], rel=0.01, abs=5e-4)
        assert split["waiting"][-1] == pytest.approx(0, abs=0.02), "nobody waits on the slowest rank"
        for waiting in split["waiting"][:-1]:
            assert waiting == pytest.approx(SLOW, abs=0.03)
