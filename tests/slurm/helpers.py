"""Helpers that the tests on a real cluster share."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from harness.config.cells import Cell
from harness.records.cell_folder import CellFolder
from harness.records.events import Step
from harness.run.checkpoint import load_newest
from launch.planning.grid import Grid
from launch.planning.profiles import Slurm
from launch.planning.runs_folder import Runs
from launch.slurm.enqueue import enqueue
from launch.slurm.submissions import Submissions, secrets

PROFILE = Slurm(
    executor="slurm",
    partition="main",
    gpu="gpu:fake",
    ranks_per_node=2,
    cpus=1,
    memory="400M",
    timeout_min=60,
    environment={"OMP_NUM_THREADS": "1", "JFBENCH_WITHOUT_GPU": "1"},
)


def with_needed(cells: list[Cell]) -> list[Cell]:
    """The cells and what they need, each once."""
    needed = [cell.needs for cell in cells if cell.needs]
    return list({cell.cell_id: cell for cell in [*needed, *cells]}.values())


def send(
    runs: Runs, cells: list[Cell], environment: Mapping[str, str] | None = None, **changes: object
) -> list[CellFolder]:
    """Launch cells as the grid `test`, with more variables if given, and return their directories."""
    variables = {**secrets(PROFILE), **(environment or {})}
    profile = Slurm.model_validate({**PROFILE.model_dump(), "environment": variables, **changes})
    runs.write_plan(Grid(name="test"), cells)
    enqueue(runs, "test", cells, profile, Console(quiet=True))
    return [runs.cell(cell.cell_id) for cell in cells]


def all_finished(folders: list[CellFolder]) -> bool:
    return all(folder.status().state == "finished" for folder in folders)


def job_id(runs: Runs, folder: CellFolder) -> str:
    """The id of a cell's pending or running job."""
    return Submissions(runs).living([folder.cell_id])[folder.cell_id].job_id


def steps(folder: CellFolder) -> list[tuple[int, float]]:
    """Every recorded step and its loss."""
    return [(event.step, event.loss) for event in folder.events() if isinstance(event, Step)]


def weights(folder: CellFolder) -> dict[str, Tensor]:
    """The weights in the newest checkpoint."""
    loaded = load_newest(folder.checkpoints)
    assert loaded is not None, folder.cell_id
    state: dict[str, Tensor] = loaded[1]["model"]
    return state


def assert_each_step_once(folder: CellFolder) -> None:
    """Assert that the record has each step once and in order."""
    assert [step for step, _ in steps(folder)] == list(range(1, folder.status().steps + 1)), folder.cell_id


def assert_same_result(one: CellFolder, other: CellFolder) -> None:
    """Assert that the losses are the same, each step is recorded once, and the weights are identical bit for bit."""
    assert_each_step_once(one)
    assert steps(one) == steps(other), one.cell_id
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), (one.cell_id, name)


def process_of_rank(folder: CellFolder, rank: int) -> int:
    """The process that writes the newest log of a rank."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                target = Path(os.readlink(entry / "fd/1"))
            except OSError:
                continue
            if target.parent == folder.path / "logs" and target.name.endswith(f"_{rank}_log.txt"):
                return int(entry.name)
    raise AssertionError(f"no process runs rank {rank} of {folder.cell_id}")
